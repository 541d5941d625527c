"""Words of a command line, as users write them and as the parser wants them."""

from pathlib import Path

import pytest
import yaml
from jsonargparse import Namespace

from rlaif_pl.cli import main as cli
from rlaif_pl.cli.commands.parsers import expand_home, gather_lists

CLASS = "rlaif_pl.labeling.PairwiseLabeler"


def command(
    data: "DataSource | str",  # noqa: F821 - a name is enough
    labeler: "Labeler | str" = "pairwise",  # noqa: F821
    labelers: "dict[str, Labeler | str] | None" = None,  # noqa: F821
    confidence: "list[int] | None" = None,
    limit: int = 0,
) -> int:
    return len([data, labeler, labelers, confidence, limit])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--confidence", "1", "2", "8"], ["--confidence", "[1,2,8]"]),
        (["--confidence", "[1, 2]"], ["--confidence", "[1, 2]"]),
        (["--confidence=[1,2]", "--limit", "3"], ["--confidence=[1,2]", "--limit", "3"]),
        (["--limit", "3", "--confidence", "1"], ["--limit", "3", "--confidence", "[1]"]),
        (["--data.confidence", "1", "2"], ["--data.confidence", "[1,2]"]),
    ],
)
def test_lists_are_gathered(given, expected):
    assert gather_lists(command, given) == expected


def printed(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--pairs", "a", "--pairs.limit", "3"], {"name": "a", "limit": 3}),
        (["--pairs=a", "--pairs.limit=3", "--pairs.seed=2"], {"name": "a", "limit": 3, "seed": 2}),
        (["--pairs", "{name: a, seed: 2}", "--pairs.limit", "3"], {"limit": 3, "seed": 2}),
        (["--pairs.name", "a", "--pairs.limit", "3"], {"name": "a", "limit": 3}),
        (["--pairs", "a", "--pairs.confidence", "1", "9"], {"name": "a", "confidence": [1, 9]}),
        (["--pairs=b", "--pairs.limit=3", "--pairs.name=a"], {"name": "a", "limit": 3}),
    ],
)
def test_further_keys_add_to_a_data_set_that_is_given_by_its_name(capsys, given, expected):
    found = printed(capsys, "label", "--out=x", *given)["pairs"]
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("given", [["--pairs=a"], ["--pairs.limit=3", "--pairs=a"]])
def test_a_name_that_comes_last_stands_alone(capsys, given):
    assert printed(capsys, "label", "--out=x", *given)["pairs"] == "a"


@pytest.mark.parametrize(
    ("given", "kind", "expected"),
    [
        (["--labeler", "pairwise", "--labeler.cot=true"], "Pairwise", {"cot": True}),
        (["--labeler=PairwiseLabeler", "--labeler.backend", "m"], "Pairwise", {"backend": "m"}),
        (["--labeler.temperature", "2"], "Likelihood", {"temperature": 2.0}),
        (["--labeler", CLASS, "--labeler.backend=m"], "Pairwise", {"backend": "m"}),
        (["--labeler.temperature=2", "--labeler=" + CLASS], "Pairwise", {"temperature": 2.0}),
    ],
)
def test_further_keys_add_to_a_labeler_that_is_given_by_its_name(capsys, given, kind, expected):
    found = printed(capsys, "label", "--pairs=a", "--out=x", *given)["labeler"]
    assert found["class_path"] == f"rlaif_pl.labeling.{kind}Labeler"
    assert {key: found["init_args"][key] for key in expected} == expected


def test_further_keys_add_to_names_in_a_mapping_and_in_a_fit(capsys):
    words = ["--data=a", "--labelers.a", "pairwise"]
    assert printed(capsys, "evaluate", "alignment", *words)["labelers"] == {"a": "pairwise"}
    words = [
        "--config",
        "quickstart/reward.yaml",
        "--data.preferences=a",
        "--data.preferences.limit=5",
    ]
    found = printed(capsys, "fit", *words)["data"]["preferences"]
    assert (found["name"], found["limit"]) == ("a", 5)


def test_further_keys_add_to_what_a_config_names(tmp_path, capsys):
    file = tmp_path / "label.yaml"
    file.write_text("pairs: tiny_tldr/pairs\nout: x\nlabeler: pairwise\n")
    config = f"--config={file}"
    found = printed(capsys, "label", config, "--pairs.limit=3", "--labeler.backend", "some/model")
    assert (found["pairs"]["name"], found["pairs"]["limit"]) == ("tiny_tldr/pairs", 3)
    assert found["labeler"]["class_path"] == CLASS
    assert found["labeler"]["init_args"]["backend"] == "some/model"
    other = printed(capsys, "label", config, "--pairs=mine.jsonl", "--pairs.limit=3")
    assert other["pairs"]["name"] == "mine.jsonl"
    assert other["labeler"] == "pairwise"


def test_a_config_that_cannot_be_read_is_named(tmp_path, capsys):
    (tmp_path / "label.yaml").write_text("pairs: [1")
    words = ["label", "--config", str(tmp_path / "label.yaml"), "--pairs.limit=3"]
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert f"error: {tmp_path}/label.yaml: " in said
    assert "line 1, column 8\ndid not find expected ',' or ']'" in said


def test_a_leading_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    words = Namespace(
        out="~/runs", text="a ~/b", policy=Namespace(name="~/m", n=3), path=Path("~/x")
    )
    expand_home(words)
    assert (words.out, words.text, words.path) == ("/home/me/runs", "a ~/b", Path("/home/me/x"))
    assert (words.policy.name, words.policy.n) == ("/home/me/m", 3)
