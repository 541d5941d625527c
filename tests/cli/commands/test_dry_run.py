"""Dry runs of the experiments for GPUs, and of broken ones; nothing is downloaded or loaded."""

import socket

import pytest
import yaml

from rlaif_pl.cli import main as cli
from rlaif_pl.cli.commands.config_check import ConfigCheck
from rlaif_pl.config_paths import config_paths
from rlaif_pl.pipeline import load_experiment

FSDP2 = "lightning.pytorch.strategies.ModelParallelStrategy"
FILES = sorted(file for room in ("tldr", "hh") for file in (config_paths() / room).glob("*.yaml"))


@pytest.fixture
def no_network(monkeypatch):
    """Let no connection be made."""

    def refuse(*_args, **_options):
        raise AssertionError("a dry run opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def dry_run(file, tmp_path) -> int:
    return cli.main(["run", str(file), "--out", str(tmp_path / "out"), "--dry_run"])


def test_there_are_experiments_for_gpus():
    assert len(FILES) >= 6


@pytest.mark.parametrize("file", FILES, ids=[f"{f.parent.name}/{f.stem}" for f in FILES])
def test_every_experiment_for_gpus_parses_and_fits(file, tmp_path, capsys, no_network):
    assert dry_run(file, tmp_path) == 0
    said = capsys.readouterr().out
    assert "stages parse;" in said
    assert "not known" not in said
    assert "no estimate" not in said
    assert not (tmp_path / "out").exists()
    rows = [line for line in said.splitlines() if line.startswith("│") and " fits │" in line]
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    fits = [stage["name"] for stage in content["stages"] if stage["command"] == "fit"]
    assert [row.split()[1] for row in rows] == fits  # every training stage fits 80 GiB


def test_labels_and_hours_of_the_papers_recipe(tmp_path, capsys):
    dry_run(config_paths() / "tldr/rlaif.yaml", tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    # 0.95 x 92,858 pairs and 3,000 measured first, four requests each
    assert "│ label │ 88,215 │" in said
    assert "│ 364,860 │" in said
    # 8 epochs of 116,722 posts, 128 a step
    assert "│ a2c │ 933,776 │ 7,295 x 128 │" in said
    assert "policy 1.54B trained" in said
    assert "reference 1.54B frozen" in said


def broken(tmp_path, stage, key, value):
    """Write tldr/rlaif.yaml with one value of a stage changed."""
    content = yaml.safe_load((config_paths() / "tldr/rlaif.yaml").read_text(encoding="utf-8"))
    node = next(each for each in content["stages"] if each["name"] == stage)["set"]
    *parents, last = key.split(".")
    for part in parents:
        node = node[part]
    node[last] = value
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    ("stage", "key", "value", "words"),
    [
        ("a2c", "model.init_args.temperatur", 1.0, "temperatur"),
        ("a2c", "trainer.precision", 7, "precision"),
        ("label", "labeler.init_args.preamble", "short", "preamble"),
        # right in type, and refused by what is built: a prompt file that is not there, a clamp, a rate
        ("label", "labeler.init_args.prompt", "no-such-prompt", "no-such-prompt"),
        ("label", "labeler.init_args.verdict", {"clamp": [0.9, 0.1]}, "expected clamp to be"),
        ("sft", "model.init_args.optimizer.init_args.lr", -1.0, "earning rate"),
        ("sft", "data.demonstrations.part", [0.5, 0.2], "part"),
        ("a2c", "model.init_args.shaping.kl_coef", 2.0, "kl_coef in [0, 1]"),
        ("a2c", "trainer.strategy", {"class_path": FSDP2}, "expected servers that draw responses"),
        ("reward", "trainer.strategy", {"class_path": FSDP2}, "data_parallel_size: the number of"),
        ("sft", "trainer.strategy", "fsdp", "auto, ddp or lightning.pytorch.strategies.Model"),
    ],
)
def test_a_mistake_in_a_stage_is_named(tmp_path, stage, key, value, words):
    experiment = load_experiment(broken(tmp_path, stage, key, value))
    (wrong,) = [each for each in experiment.stages if each.name == stage]
    problem = ConfigCheck().refused(wrong.command, experiment.resolve(wrong))
    assert problem is not None
    assert words in problem.said()


def test_a_dry_run_with_a_mistake_fails_and_names_the_stage(tmp_path, capsys):
    assert dry_run(broken(tmp_path, "select", "k", "four"), tmp_path) == 1
    assert capsys.readouterr().err.startswith("stage select: ")


def test_the_judge_in_the_comments_works_as_written(tmp_path):
    text = (config_paths() / "tldr/rlaif.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.strip() == "# judge_every: 100")
    while lines[start].strip().startswith("#"):
        lines[start] = lines[start].replace("# ", "", 1)
        start += 1
    path = tmp_path / "judged.yaml"
    path.write_text("\n".join(lines))
    experiment = load_experiment(path)
    (stage,) = [each for each in experiment.stages if each.name == "a2c"]
    content = experiment.resolve(stage)
    alarm = next(c for c in content["trainer"]["callbacks"] if "HackingAlarm" in c["class_path"])
    assert alarm["init_args"]["judge"]["class_path"].endswith("ScoreLabeler")
    check = ConfigCheck()
    assert check.refused("fit", content) is None
    for judge in (
        {"class_path": "rlaif_pl.models.RewardModel", "init_args": {"frozen": True}},
        {"class_path": "rlaif_pl.labeling.LikelihoodLabeler"},
    ):
        alarm["init_args"]["judge"] = judge
        assert check.refused("fit", content) is None
