"""Functions and classes of one's own by their path: what works, and what is said of the rest."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rlaif_pl.cli import main as cli
from rlaif_pl.cli.commands.select import build_actor, config_of
from rlaif_pl.config_paths import find_config
from rlaif_pl.data.csv_rows import read_table
from rlaif_pl.models import ActorCritic

MODULE = """
from collections.abc import Sequence

import torch
from torch import Tensor


def words(prompts, responses):
    return [float(len(text.split())) for text in responses]


def containing(prompts: Sequence[str], responses: Sequence[str], word: str = "a") -> list[float]:
    return [float(word in text) for text in responses]


class Length:
    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        return torch.tensor([self.scale * len(text.split()) for text in responses])


def make_length(scale: float = 1.0) -> Length:
    return Length(scale)


class WordsLater:
    def __call__(self, prompts, responses):
        return words(prompts, responses)


later, length = WordsLater(), Length()


class Plain:
    pass


class Untyped:
    def score(self, prompts, responses):
        return words(prompts, responses)


def adam(parameters) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3)


def any_adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-3)
"""
FIT = {"trainer": {"max_steps": 1}, "model": {"class_path": "rlaif_pl.training.SFTModule"}}
SCORE = "score(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor"
LABEL = "label(self, pairs: Sequence[Preference]) -> list[Preference]"
PAIRWISE = "rlaif_pl.labeling.PairwiseLabeler"


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    yield
    sys.modules.pop("mine", None)


def measure(command, data_files, *words, config=None):
    if config is not None:
        with open("reward.yaml", "w", encoding="utf-8") as file:
            yaml.safe_dump({"reward": config}, file)
        words = ("--config", "reward.yaml")
    metrics = command("evaluate reward", f"--gold={data_files.pairs}", "--draws=20", *words)
    return metrics["reward/pair_accuracy"], metrics["reward/ece"]


def test_a_function_is_a_reward_wherever_a_class_is(command, data_files):
    expected = measure(command, data_files, "--reward", "mine.Length")
    assert measure(command, data_files, "--reward", "mine.words") == expected
    assert measure(command, data_files, "--reward.class_path=mine.words") == expected
    for config in ("mine.words", {"class_path": "mine.words"}, {"class_path": "mine.later"}):
        assert measure(command, data_files, config=config) == expected
    assert measure(command, data_files, "--reward", "mine.length") == expected  # an object


def test_a_list_of_rewards_is_their_sum(command, data_files):
    expected = measure(command, data_files, "--reward", "mine.words")
    twice = {"class_path": "rlaif_pl.rl.WeightedRewards"}
    twice["init_args"] = {"rewards": ["mine.words", {"class_path": "mine.Length"}]}
    doubled = measure(command, data_files, "--reward=mine.Length", "--reward.scale=2")
    for config in (twice, twice["init_args"]["rewards"]):
        assert measure(command, data_files, config=config) == doubled != expected
    twice["init_args"] |= {"weights": [1.0, 0.0]}
    assert measure(command, data_files, config=twice) == expected


def test_a_function_that_declares_to_make_a_reward_makes_one(command, data_files):
    made = {"class_path": "mine.make_length", "init_args": {"scale": 0.0}}
    assert measure(command, data_files, config=made) == measure(
        command, data_files, "--reward=mine.Length", "--reward.scale=0"
    )


def test_a_fit_by_a_function_says_it_in_its_resolved_config(
    tiny_model_folder, data_files, tmp_path
):
    config = yaml.safe_load(find_config("quickstart/a2c.yaml").read_text(encoding="utf-8"))
    arguments = config["model"]["init_args"]
    arguments["actor"]["init_args"]["backbone"] = {"name": str(tiny_model_folder)}
    arguments["sampling"] |= {"n": 2, "max_new_tokens": 4}
    arguments["shaping"] = {"kl_coef": 0.0}
    config["data"] |= {"prompts": data_files.prompts, "batch_size": 4, "validation": None}
    config["trainer"] |= {"max_steps": 1, "default_root_dir": str(tmp_path / "run")}
    config["trainer"] |= {"enable_progress_bar": False}
    (tmp_path / "a2c.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    words = ["fit", "--config", "a2c.yaml", "--model.init_args.reward", "mine.words"]
    assert cli.main(words) == 0
    (row,) = read_table(tmp_path / "run" / "history.csv").rows
    assert float(row["a2c/train_reward"]) > 0
    assert isinstance(build_actor(config_of(tmp_path / "run")), ActorCritic)
    resolved = yaml.safe_load((tmp_path / "run" / "resolved_config.yaml").read_text())
    assert resolved["model"]["init_args"]["reward"]["init_args"] == {"function": "mine.words"}


def refused(capsys, command, content):
    with open("mine.yaml", "w", encoding="utf-8") as file:
        json.dump(content, file)
    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), "--config", "mine.yaml"])
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (
            "theirs.Keyword",
            "to import theirs.Keyword, which needs the module nltk_of_nobody, got none",
        ),
        (
            "nowhere.Keyword",
            "class_path to name a class or function that exists, got 'nowhere.Keyword': "
            "there is no module nowhere",
        ),
        (
            "mine.Keyword",
            "class_path to name a class or function that exists, got 'mine.Keyword': "
            "mine has no Keyword",
        ),
    ],
)
def test_a_class_is_told_from_what_its_module_imports(capsys, path, said):
    Path("theirs.py").write_text("import nltk_of_nobody\n\n\nclass Keyword:\n    pass\n")
    content = {"gold": "x", "out": "y", "reward": {"class_path": path}}
    assert f"expected {said}" in refused(capsys, "evaluate reward", content)


def test_the_script_finds_classes_beside_it(tmp_path):
    script = tmp_path / "bin" / "rlaif-pl"
    script.parent.mkdir()
    script.write_text("import sys\nfrom rlaif_pl.cli.main import main\nsys.exit(main())\n")
    words = ["evaluate", "reward", "--gold=x", "--out=y", "--reward=mine.Length", "--print_config"]
    line = [sys.executable, str(script), *words]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "class_path: mine.Length" in done.stdout


def fit(**arguments):
    return {"model": {"class_path": "rlaif_pl.training.A2CModule", "init_args": arguments}}


@pytest.mark.parametrize(
    ("command", "content", "said"),
    [
        (
            "evaluate reward",
            {"gold": "x", "out": "y", "reward": {"class_path": "mine.Plain"}},
            f"expected reward to be a class with {SCORE}, or a function of prompts and responses "
            "without init_args, got the class mine.Plain, which has no score",
        ),
        (
            "evaluate reward",
            {"gold": "x", "out": "y", "reward": "mine.Untyped"},
            "got the class mine.Untyped, whose arguments or types are others",
        ),
        (
            "evaluate reward",
            {"reward": {"class_path": "mine.containing", "init_args": {"word": "b"}}},
            "without init_args, got the function mine.containing",
        ),
        (
            "fit",
            fit(reward="mine.Plain"),
            f"expected reward of A2CModule to be a class with {SCORE}",
        ),
        (
            "fit",
            fit(actor={"class_path": "mine.words"}),
            "expected actor of A2CModule to be a subclass of ActorCritic, got the function mine.words",
        ),
        (
            "fit",
            fit(rollout={"class_path": "mine.words"}),
            "to be a subclass of GenerationBackend, got the function mine.words",
        ),
        (
            "evaluate matrix",
            {"judges": {"rewards": {"a": {"class_path": "mine.Plain"}}}},
            "got the class mine.Plain, which has no score",
        ),
        (
            "label",
            {"pairs": "x", "out": "y", "labeler": {"class_path": "mine.words"}},
            f"expected labeler to be a class with fingerprint and {LABEL}, got the function mine.words",
        ),
        (
            "label",
            {
                "labeler": {
                    "class_path": PAIRWISE,
                    "init_args": {"backend": {"class_path": "mine.words"}},
                }
            },
            "backend of PairwiseLabeler to be a class with fingerprint and answer(self, calls:",
        ),
        (
            "fit",
            {"model": {"class_path": "mine.words"}},
            "expected model to be a subclass of LightningModule, got the function mine.words",
        ),
        (
            "fit",
            {**FIT, "trainer": {"callbacks": [{"class_path": "mine.words"}]}},
            "expected trainer.callbacks to be a subclass of Callback, got the function mine.words",
        ),
        (
            "fit",
            {**FIT, "data": {"labeling": {"labeler": {"class_path": "mine.Plain"}}}},
            "got the class mine.Plain, which has no fingerprint and no label",
        ),
    ],
)
def test_an_object_of_another_kind_is_told_from_what_is_wanted(capsys, command, content, said):
    assert said in refused(capsys, command, content)


@pytest.mark.parametrize(
    ("key", "bases"),
    [("optimizer", "Optimizer"), ("scheduler", "LRScheduler or ReduceLROnPlateau")],
)
def test_a_function_that_builds_an_optimizer_declares_it(capsys, key, bases):
    content = {"model": {**FIT["model"], "init_args": {key: {"class_path": "mine.any_adam"}}}}
    said = refused(capsys, "fit", content)
    assert f"expected {key} of SFTModule to be a subclass of {bases}, or a function" in said
    assert said.endswith("that declares to return one, got the function mine.any_adam")
    content["model"]["init_args"][key] = {"class_path": "mine.Plain"}
    assert refused(capsys, "fit", content).endswith(f"of {bases}, got the class mine.Plain")
    content["model"]["init_args"][key] = {"class_path": "mine.adam", "init_args": {"lr": 1}}
    assert f"a subclass of {bases}, got the function mine.adam" in refused(capsys, "fit", content)


@pytest.mark.parametrize("optimizer", ["mine.adam", {"class_path": "mine.adam"}])
def test_a_function_trains_as_optimizer(optimizer, tiny_model_folder, data_files, tmp_path):
    arguments = {"backbone": {"name": str(tiny_model_folder)}, "optimizer": optimizer}
    content = {
        "model": {**FIT["model"], "init_args": arguments},
        "data": {"task": "demonstrations", "demonstrations": data_files.prompts, "batch_size": 4},
        "trainer": {
            "max_steps": 1,
            "enable_progress_bar": False,
            "default_root_dir": str(tmp_path),
        },
        "default_callbacks": {"off": ["all"]},
    }
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert cli.main(["fit", "--config", "sft.yaml"]) == 0


def test_a_path_that_is_no_labeler_names_the_known_ones(command, capsys):
    command("evaluate alignment", "--data=tiny_tldr/dev", "--labeler=mine.words", status=1)
    said = capsys.readouterr().err
    assert "or the path of a class with fingerprint and label(pairs), got 'mine.words'" in said
