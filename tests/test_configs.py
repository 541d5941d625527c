"""Every YAML under configs/ runs: on the tiny model and a few short rows, or as a dry run."""

import inspect
import json
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml

from rlaif_pl.cli import main as cli
from rlaif_pl.cli import registry
from rlaif_pl.config_paths import config_paths
from rlaif_pl.models.scalar_head import ScalarHead
from rlaif_pl.pipeline import load_experiment
from rlaif_pl.pipeline.yaml_files import flatten, read_yaml

FILES = sorted(config_paths().rglob("*.yaml"))
# What asks a server, or goes after another config: built in tests/cli/commands/test_labeler_configs.py.
RUNNABLE = [
    file
    for file in FILES
    if file.parent.name != "backends" and "EndpointBackend" not in file.read_text(encoding="utf-8")
]
# Values that only make a run smaller; a key that a file does not have stays out.
SMALLER = {
    "trunk_layers": 2,
    "num_layers": None,
    "max_new_tokens": 4,
    "n": 2,
    "max_response_tokens": 8,
    "batch_size": 4,
    "draws": 20,
    "limit": 6,
    "max_rationale_tokens": 8,
    "samples": 2,
}
FIT = (
    "--trainer.max_steps=1",
    "--trainer.limit_val_batches=1",
    "--trainer.enable_progress_bar=false",
)
PREDICT = (
    "--trainer.devices=1",
    "--trainer.strategy=auto",
    "--trainer.enable_progress_bar=false",
)


def commands_that_take(config) -> list[str]:
    """Return the commands whose required options the file has and whose options cover its keys."""
    if {"model", "data", "trainer"} <= config.keys():
        return ["predict" if config["data"].get("task") == "comparisons" else "fit"]
    if "stages" in config:
        return ["run"]
    found = []
    for command in registry.FUNCTIONS:
        options = inspect.signature(registry.function_of(command)).parameters
        required = {key for key, option in options.items() if option.default is option.empty}
        if config and required <= config.keys() <= options.keys():
            found.append(command)
    return found


READERS = ("PairwiseLabeler", "ScoreLabeler", "RubricLabeler", "ConstitutionLabeler")


@pytest.fixture
def shrunk(tmp_path, tiny_model_folder, tiny_reward_folder, data_files):
    """Return a function that puts tiny models, files and sizes into a config."""
    whole = {
        "smollm2-135m": str(tiny_model_folder),
        "tiny_tldr/train": data_files.prompts,
        "tiny_tldr/pairs": data_files.unlabeled,
    }
    endings = {
        "/policy": str(tiny_model_folder),
        "/reward_model": str(tiny_reward_folder),
        "/pairs.jsonl": data_files.unlabeled,
        "/labeled.jsonl": data_files.pairs,
    }
    outputs = ("out", "run_dir", "default_root_dir", "store")

    def replace(value, key=""):
        if isinstance(value, dict):
            made = {name: replace(item, name) for name, item in value.items()}
            if str(made.get("class_path")).endswith(READERS):
                # a random model gives its options no more probability than any other token
                read = {**made.get("init_args", {}).get("verdict", {}), "min_option_mass": 0}
                made["init_args"] = {**made.get("init_args", {}), "verdict": read}
            return {**made, "max_tokens": 8} if key == "cot" else made
        if isinstance(value, list):
            return [replace(item) for item in value]
        if key in SMALLER:
            return SMALLER[key]
        if not isinstance(value, str):
            return value
        if key in outputs:
            return str(tmp_path / "out" / Path(value).name)
        if value in ("tiny_tldr/dev", "tiny_tldr/final") and key != "name":
            return {"name": value, "limit": 6}
        if value in whole:
            return whole[value]
        return next((new for end, new in endings.items() if value.endswith(end)), value)

    return replace


def test_there_are_configs_to_run():
    assert len(FILES) >= 10


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda p: str(p.relative_to(config_paths())))
def test_config_runs(path, shrunk, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    commands = commands_that_take(config)
    assert len(commands) == 1, f"{path} must be the config of one command, it fits {commands}"
    command = commands[0]
    if command == "run":
        assert cli.main(["run", str(path), "--out", str(tmp_path / "run"), "--dry_run"]) == 0
        return
    if command == "report":
        (tmp_path / "out" / Path(config["run_dir"]).name).mkdir(parents=True)
    file = tmp_path / path.name
    file.write_text(yaml.safe_dump(shrunk(config)), encoding="utf-8")
    options = {"fit": FIT, "predict": PREDICT}.get(command, ())
    assert cli.main([*command.split(), "--config", str(file), *options]) == 0
    made = tmp_path / "out"
    if command == "report":
        assert next(made.rglob("report.html")).stat().st_size > 1000
    else:
        assert json.loads(next(made.rglob("metrics.json")).read_text(encoding="utf-8"))


def test_paths_in_comments_exist():
    """A command line in a comment of a config names configs that are there."""
    for path in FILES:
        for word in path.read_text(encoding="utf-8").split():
            if word.startswith("configs/") and word.endswith(".yaml"):
                assert config_paths().joinpath(*Path(word).parts[1:]).is_file(), (path, word)


def modules_of(node, kind):
    """Yield the arguments of every module of a kind in a config."""
    if isinstance(node, dict):
        if str(node.get("class_path")).endswith(kind):
            yield node["init_args"]
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from modules_of(each, kind)


WITH_A2C = [file for file in FILES if "training.A2CModule" in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", WITH_A2C, ids=lambda p: str(p.relative_to(config_paths())))
def test_a_value_head_that_starts_at_0_moves(path):
    """Steps relative to a weight's size leave it where it is: the policy then has no baseline."""
    (module,) = modules_of(yaml.safe_load(path.read_text(encoding="utf-8")), "training.A2CModule")
    optimizer = module["optimizer"]
    place, _, name = optimizer["class_path"].rpartition(".")
    head, width = ScalarHead(1536), 1536
    for weight in head.parameters():
        torch.nn.init.zeros_(weight)
    built = getattr(import_module(place), name)(head.parameters(), **optimizer["init_args"])
    built.param_groups[0]["lr"] *= module.get("value_lr_scale", 10.0)  # the default
    # States of texts are alike in large part.
    states = torch.nn.functional.layer_norm(torch.randn(64, width) + torch.randn(width), (width,))
    for _ in range(200):
        built.zero_grad()
        (head(states / width**0.5) - 0.7).square().mean().backward()
        built.step()
    assert head(states / width**0.5).mean() > 0.05


@pytest.mark.parametrize("folder", ["methods", "quickstart"])
def test_experiments_read_no_other_run(folder):
    files = [
        path for path in (config_paths() / folder).glob("*.yaml") if "stages" in read_yaml(path)
    ]
    assert files
    for experiment in map(load_experiment, files):
        for stage in experiment.stages:
            read = flatten(experiment.resolve(stage, "${out}"))
            models = {key: read[key] for key in read if key.endswith((".model", ".name"))}
            assert not [each for each in models.items() if str(each[1]).startswith("runs/")], stage
