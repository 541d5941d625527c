"""Texts of a command line arrive as they were typed, in every command and at every depth."""

import io
from contextlib import redirect_stdout

import pytest
import yaml

from rlaif_pl.cli import main as cli
from rlaif_pl.cli.commands.values import keep_line_breaks
from rlaif_pl.text import Template

SAMPLE = ["sample", "--prompts", "x", "--out", "y"]
SFT = ["fit", "--config", "quickstart/sft.yaml"]
A2C = ["fit", "--config", "quickstart/a2c.yaml"]
LABEL = ["label", "--pairs", "x", "--out", "y"]
LIKELIHOOD = [*LABEL, "--labeler", "rlaif_pl.labeling.LikelihoodLabeler"]
ENDPOINT = [*LABEL, "--labeler", "pairwise", "--labeler.backend"]
ENDPOINT += ["rlaif_pl.labeling.EndpointBackend", "--labeler.backend.base_url", "http://localhost"]
ENDPOINT += ["--labeler.backend.model", "m"]
REWARD = ["evaluate", "reward", "--gold", "x", "--out", "y"]
REWARD += ["--reward", "rlaif_pl.models.RewardModel"]
MATRIX = ["evaluate", "matrix", "--policies", "{a: {name: x}}", "--prompts", "x", "--out", "y"]
MATRIX += ["--judges.labelers", "{a: {class_path: rlaif_pl.labeling.LikelihoodLabeler}}"]
TEXTS = [
    "POST: {prompt}\nTL;DR:",
    "POST: {prompt}\n\nTL;DR:",
    "# {prompt}",
    "{prompt} # and more",
    "{prompt}",
    "'{prompt}'",
    "[INST] {prompt} [/INST]",
    "  - {prompt}\n",
    "12",
]
OPTIONS = [  # a command, one of its text options, and where its value stands in the config
    (SAMPLE, "template.prompt", "template.prompt"),
    (SFT, "model.init_args.template.prompt", "model.init_args.template.prompt"),
    (SFT, "model.template.response", "model.init_args.template.response"),
    (A2C, *["model.init_args.actor.init_args.template.prompt"] * 2),
    (A2C, *["model.init_args.reward.init_args.template.prompt"] * 2),
    (REWARD, "reward.template.prompt", "reward.init_args.template.prompt"),
    (LIKELIHOOD, "labeler.template", "labeler.init_args.template"),
    (MATRIX, *["judges.labelers.a.init_args.template"] * 2),
    (ENDPOINT, *["labeler.init_args.backend.init_args.server.echo_start"] * 2),
    (["rate", "--out", "y"], "page.question", "page.question"),
]


def printed(words, path):
    """Value of a key in what ``--print_config`` prints."""
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(SystemExit) as stop:
        cli.main([*words, "--print_config"])
    assert stop.value.code == 0
    found = yaml.safe_load(out.getvalue())
    for key in path.split("."):
        found = found[key]
    return found


@pytest.mark.parametrize(("command", "option", "path"), OPTIONS)
def test_a_text_arrives_as_it_was_typed(command, option, path):
    for text in TEXTS:
        assert printed([*command, f"--{option}", text], path) == text
        assert printed([*command, f"--{option}={text}"], path) == text


@pytest.mark.parametrize(
    ("command", "option"), [(SAMPLE, "sampling.stop"), (A2C, "model.init_args.sampling.stop")]
)
def test_stop_strings_are_a_text_or_a_list(command, option):
    for text in ("\n", "\n\n", "###", "a: b", "[", "END"):
        assert printed([*command, f"--{option}", text], option) == [text]
    for typed in ('["\\n", "###"]', '["\n", "###"]', "['\n', '###']"):
        assert printed([*command, f"--{option}", typed], option) == ["\n", "###"]


@pytest.mark.parametrize(
    ("command", "option"), [(SAMPLE, "template"), (SFT, "model.init_args.template")]
)
@pytest.mark.parametrize(
    "typed",
    [
        '{"prompt": "POST: {prompt}\\nTL;DR:"}',
        '{prompt: "POST: {prompt}\nTL;DR:"}',
        "{prompt: 'POST: {prompt}\nTL;DR:'}",
    ],
)
def test_a_mapping_keeps_the_line_breaks_of_its_texts(command, option, typed):
    found = printed([*command, f"--{option}", typed], option)
    assert found["prompt"] == "POST: {prompt}\nTL;DR:"
    assert printed([*command, f"--{option}={typed}"], option) == found


def test_a_word_without_quoted_line_breaks_stays():
    for word in ("a\nb", "--x=a\nb", "[a,\n b]", "{broken: 'a\n", '--x={"a": "b"}', "--x"):
        assert keep_line_breaks(word) == word
    assert keep_line_breaks("--x=['it''s\n', a]") == '--x=["it\'s\\n", a]'
    assert keep_line_breaks('["a\\\n b"]') == '["a\\\n b"]'  # YAML joins lines behind a backslash


def test_texts_of_a_list_are_no_yaml():
    found = printed(["rate", "--out", "y", "--policies", "a, b", "c: d", "# e", "12"], "policies")
    assert found == ["a, b", "c: d", "# e", "12"]


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ([*SAMPLE, "--policy.name", "x"], "template.prompt"),
        ([*SAMPLE, "--policy.name", "x"], "sampling.stop"),
        (SFT, "model.init_args.template.prompt"),
        (LIKELIHOOD, "labeler.template"),
        (ENDPOINT, "labeler.init_args.backend.init_args.server.echo_start"),
        (["rate", "--out", "y"], "page.question"),
    ],
)
def test_a_spelled_line_break_is_refused_with_the_way_to_type_one(
    command, option, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*command, f"--{option}", r"it's {prompt}\n{response}"]) == 1
    said = capsys.readouterr().err
    name = "template" if option == "labeler.template" else option.removeprefix("model.init_args.")
    name = name.rpartition(".")[2] if name.endswith(("stop", "echo_start")) else name
    assert f"expected line breaks in {name}, got a backslash and an n: it's {{prompt}}\\n" in said
    assert r"write $'it\'s {prompt}\n{response}' in a shell" in said


def test_a_backslash_beside_real_line_breaks_means_itself():
    prompt = "Is $a \\neq b$?\n{prompt}\n"
    assert Template(prompt=prompt).prompt == prompt
