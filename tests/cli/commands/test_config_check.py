"""Configs are checked by building what loads nothing: constructors refuse what types cannot."""

import sys

import pytest

from rlaif_pl.cli.commands.config_check import ConfigCheck

MODULE = """
from collections.abc import Sequence

import torch
from lightning.pytorch import Callback

from rlaif_pl import types


class Reward:
    def __init__(self, scale: float = 1.0) -> None:
        raise AssertionError("a user's code was run")

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> torch.Tensor:
        raise AssertionError


def make_reward(scale: float = 1.0) -> Reward:
    raise AssertionError("a user's code was run")


def make_any_reward() -> types.Reward:
    raise AssertionError("a user's code was run")


def make_labeler() -> types.Labeler:
    raise AssertionError("a user's code was run")


def make_callback(n: int = 1) -> Callback:
    raise AssertionError("a user's code was run")


def make_optimizer(parameters) -> torch.optim.Optimizer:
    raise AssertionError("a user's code was run")


class Makers:
    @classmethod
    def reward(cls) -> Reward:
        raise AssertionError("a user's code was run")
"""
SERVER = {
    "class_path": "rlaif_pl.labeling.EndpointBackend",
    "init_args": {"base_url": "http://localhost:9/v1", "model": "m"},
}
MISTAKES = [
    ("sample", {"sampling": {"top_p": 0}}, "expected top_p above 0, got 0.0"),
    ("sample", {"drawing": {"batch_size": 0}}, "batch_size"),
    ("rest", {"improve": {"levels": [0.8, 0.5]}}, "levels"),
    (
        "label",
        {"pairs": {"name": "x", "limit": 0}},
        "expected limit of at least 1, or null for all",
    ),
    ("label", {"gate": {"min_alignment": 2.0}}, "min_alignment"),
    ("revise", {"options": {"rounds": 0}}, "rounds"),
    ("study rewards", {"seeds": {"head": 0, "top": 0}}, "expected seeds.head or seeds.top above 0"),
]
NEEDED = {
    "sample": {"prompts": "x"},
    "rest": {"policy": {}, "prompts": "x", "validation": "y", "reward": "mine.Reward"},
    "label": {"pairs": "x"},
    "revise": {"prompts": "x"},
    "study rewards": {"human": "x", "ai": "y", "fitting": {"reward": {}, "states": "s"}},
}


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("mine", None)


def problem(command, content, check=None):
    check = check or ConfigCheck()
    found = check.refused(command, {"out": "y", **NEEDED.get(command, {}), **content})
    return found and found.said()


def labeler(kind, **options):
    return {"class_path": f"rlaif_pl.labeling.{kind}Labeler", "init_args": options}


@pytest.mark.parametrize("command", NEEDED)
def test_what_is_right_passes(command):
    assert problem(command, {}) is None


@pytest.mark.parametrize(("command", "content", "said"), MISTAKES)
def test_what_a_constructor_refuses_is_refused_in_its_words(command, content, said):
    found = problem(command, content)
    assert said in found
    assert "Union" not in found
    assert "class '" not in found


def test_labelers_are_built_with_models_of_every_kind():
    check = ConfigCheck()
    local = {"class_path": "rlaif_pl.labeling.LocalBackend", "init_args": {"device": "cuda:7"}}
    for backend in (local, SERVER, "some/model"):
        wrong = labeler("Pairwise", backend=backend, prompt="none.yaml")
        assert "none.yaml" in problem("label", {"labeler": wrong}, check)
        assert problem("label", {"labeler": labeler("Pairwise", backend=backend)}, check) is None
    assert list(check.servers) == ["http://localhost:9/v1"]
    members = [labeler("Likelihood"), labeler("Score", backend=local)]
    found = labeler("Ensemble", labelers=members, weights=[1.0])
    assert "expected 2 weights" in problem("label", {"labeler": found}, check)


def test_rows_that_a_stage_is_still_to_write_are_none_of_a_rubrics_faults():
    content = {"labeler": labeler("Rubric", backend=SERVER, rows="run/revise/rows.jsonl")}
    assert problem("label", content) is None


@pytest.mark.parametrize("path", ["mine.Reward", "mine.make_reward"])
def test_code_of_a_user_is_not_run(path):
    reward = {"class_path": path, "init_args": {"scale": 2.0}}
    assert problem("evaluate reward", {"gold": "x", "reward": reward}) is None
    module = {"class_path": "rlaif_pl.training.A2CModule", "init_args": {"reward": reward}}
    module["init_args"] |= {"actor": {}, "shaping": {"kl_coef": 2.0}}
    assert "expected kl_coef in" in ConfigCheck().refused("fit", {"model": module}).said()


@pytest.mark.parametrize(
    "reward",
    [{"class_path": f"mine.{name}"} for name in ("make_any_reward", "Makers.reward")],
    ids=str,
)
def test_what_stands_beside_what_a_function_makes_is_checked(reward):
    made = {"class_path": "mine.make_labeler"}
    members = {"labelers": [made, labeler("Likelihood", backend=SERVER)]}
    check = ConfigCheck()
    assert problem("label", {"labeler": labeler("Ensemble", **members)}, check) is None
    assert list(check.servers) == [SERVER["init_args"]["base_url"]]
    content = {"data": "x", "labelers": {"one": made, "two": labeler("Score", samples=0)}}
    assert "samples" in problem("evaluate alignment", content)
    judges = {"rewards": {"ours": reward}, "labelers": {"other": made}}
    best = {"best": {"policy": "sft", "reward": "ours", "n": 1}}
    content = {"policies": {}, "prompts": "x", "judges": judges}
    assert problem("evaluate matrix", content) is None
    assert "expected n of at least 2" in problem("evaluate matrix", content | {"best_of": best})


def test_callbacks_and_optimizers_that_functions_make_pass():
    module = {"class_path": "rlaif_pl.training.SFTModule", "init_args": {}}
    module["init_args"]["optimizer"] = "mine.make_optimizer"
    stop = {
        "class_path": "lightning.pytorch.callbacks.EarlyStopping",
        "init_args": {"monitor": "x"},
    }
    callbacks = [{"class_path": "mine.make_callback", "init_args": {"n": 2}}, stop]
    content = {"model": module, "trainer": {"callbacks": callbacks}}
    check = ConfigCheck()
    assert check.refused("fit", content) is None
    assert check.built == 2  # stop and the default schedule
    stop["init_args"]["mode"] = "least"
    assert "least" in check.refused("fit", content).said()
    stop["init_args"].pop("mode")
    callbacks[0]["init_args"]["n"] = "x"
    assert "expected" in check.refused("fit", content).said()


def test_optimizers_and_schedules_are_tried():
    module = {"class_path": "rlaif_pl.training.SFTModule", "init_args": {}}
    options = module["init_args"]
    options["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    options["scheduler"] = {"class_path": "rlaif_pl.training.LinearDecay", "init_args": {}}
    check = ConfigCheck()
    assert check.refused("fit", {"model": module}) is None
    assert check.built == 2
    options["scheduler"]["init_args"]["warmup_steps"] = -1
    assert "warmup_steps" in check.refused("fit", {"model": module}).said()
    options["optimizer"]["init_args"]["momentum"] = -1.0
    assert "momentum" in check.refused("fit", {"model": module}).said()
