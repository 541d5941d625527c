"""Words of a command line, as users write them and as the parser wants them."""

from pathlib import Path

import pytest
import yaml
from jsonargparse import Namespace

from rlaif_pl.cli import main as cli
from rlaif_pl.cli.args import expand_home, gather_lists, name_parts

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


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--data", "a", "--data.limit", "3"], ["--data.name", "a", "--data.limit", "3"]),
        (["--data.limit=3", "--data=a"], ["--data.name", "a", "--data.limit=3"]),
        (
            ["--data", "{name: a}", "--data.limit", "3"],
            ["--data", "{name: a}", "--data.limit", "3"],
        ),
        (["--data.name", "a", "--data.limit", "3"], ["--data.name", "a", "--data.limit", "3"]),
        (["--data", "a"], ["--data", "a"]),
        (["--data", "a", "--data.help"], ["--data", "a", "--data.help"]),
        (["--limit", "a", "--limit.x", "3"], ["--limit", "a", "--limit.x", "3"]),
        (
            ["--labeler", "pairwise", "--labeler.cot=true"],
            ["--labeler", CLASS, "--labeler.cot=true"],
        ),
        (
            ["--labeler=PairwiseLabeler", "--labeler.b", "m"],
            ["--labeler", CLASS, "--labeler.b", "m"],
        ),
        (["--labeler.backend", "m"], ["--labeler", CLASS, "--labeler.backend", "m"]),
        (
            ["--labeler", "x.Mine", "--labeler.backend=m"],
            ["--labeler", "x.Mine", "--labeler.backend=m"],
        ),
        (["--labelers.a", "pairwise"], ["--labelers.a", "pairwise"]),
    ],
)
def test_further_keys_add_to_what_is_given_by_its_name(given, expected):
    assert name_parts(command, given) == expected


def printed(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


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
    assert cli.main(words) == 1
    assert "label.yaml is not valid YAML" in capsys.readouterr().err


def test_a_leading_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    words = Namespace(
        out="~/runs", text="a ~/b", policy=Namespace(name="~/m", n=3), path=Path("~/x")
    )
    expand_home(words)
    assert (words.out, words.text, words.path) == ("/home/me/runs", "a ~/b", Path("/home/me/x"))
    assert (words.policy.name, words.policy.n) == ("/home/me/m", 3)
