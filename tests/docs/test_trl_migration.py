"""Every key, default, class and metric of ours that the page for TRL's users names is there."""

import ast
import importlib
import inspect
import json
import re
import types
import typing
from pathlib import Path

import pytest
import yaml
from lightning import Trainer

import rlaif_pl
from rlaif_pl.cli import main as cli
from rlaif_pl.models import RewardModel
from rlaif_pl.training import A2CModule, PreferenceDataModule, RewardModule
from rlaif_pl.types import Reward

PAGE = Path(__file__).parents[2] / "docs" / "trl_migration.md"
TEXT = PAGE.read_text(encoding="utf-8")
OURS = ("rlaif_pl", "`RewardModule`")
KEY = re.compile(r"`([a-z_]+(?:\.[a-z_]+)*)`")


def rows() -> list[tuple[type, str, str]]:
    """Each table row as its module, its cell of ours, and our default where one is given."""
    found, owner, header = [], A2CModule, None
    for line in TEXT.splitlines():
        if line.startswith("## "):
            owner = RewardModule if "RewardTrainer" in line else A2CModule
        if not line.startswith("|"):
            header = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if header is None:
            header = cells
        elif set(line) - set("|- "):
            assert len(cells) == len(header), line
            ours = next(n for n, name in enumerate(header) if name in OURS)
            found.append((owner, cells[ours], cells[ours + 1] if "default" in header else ""))
    return found


def default_of(owner: type, key: str) -> object:
    """Follow a dotted key through constructors; the default of the last argument."""
    if key.startswith("trainer."):
        owner, key = Trainer, key.removeprefix("trainer.")
    elif key.startswith("data."):
        owner, key = PreferenceDataModule, key.removeprefix("data.")
    default: object = inspect.Parameter.empty
    for name in key.replace(".init_args", "").split("."):
        parameters = inspect.signature(owner).parameters
        assert name in parameters, f"{owner.__name__} has no argument {name}"
        default = parameters[name].default
        hint = typing.get_type_hints(owner.__init__)[name]
        choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        owner = next((each for each in choices if inspect.isclass(each)), object)
        owner = RewardModel if owner is Reward else owner
    return default


def test_every_key_is_an_argument():
    keys = [(owner, key) for owner, ours, _ in rows() for key in KEY.findall(ours)]
    assert len(keys) > 45
    for owner, key in keys:
        default_of(owner, key)


def test_an_unknown_key_is_found():
    with pytest.raises(AssertionError, match="no argument kl_weight"):
        default_of(A2CModule, "shaping.kl_weight")


def test_every_default_of_ours_is_the_code_s():
    checked = 0
    for owner, ours, default in rows():
        for key in KEY.findall(ours) if default else ():
            value = None if default == "none" else yaml.safe_load(default)
            assert default_of(owner, key) == value, key
            checked += 1
    assert checked > 8


def test_every_class_of_ours_can_be_imported():
    names = set(re.findall(r"rlaif_pl\.[a-z_.]+\.[A-Z]\w+", TEXT))
    assert len(names) >= 6
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)


def test_every_metric_is_one_that_is_logged():
    named = set(re.findall(r"`(?:a2c|reward)/(?:train|val)_([a-z_]+)`", TEXT))
    assert len(named) >= 10
    package = Path(rlaif_pl.__file__).parent
    files = [*package.glob("rl/*.py"), *package.glob("training/*.py")]
    words = {
        word.rpartition("/")[2].removeprefix("train_").removeprefix("val_")
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(word := node.value, str)
    }
    assert named <= words


def test_the_config_on_the_page_steps_as_trl_does():
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    config = yaml.safe_load(block)
    arguments = config["model"]["init_args"]
    # PPOConfig of TRL 0.24 and what it takes over from transformers' TrainingArguments
    assert arguments["optimizer"]["class_path"] == "torch.optim.AdamW"
    assert arguments["optimizer"]["init_args"] == {"lr": 3e-6, "weight_decay": 0.0}
    assert arguments["scheduler"] == {"class_path": "rlaif_pl.training.LinearDecay"}
    assert config["trainer"]["gradient_clip_val"] == 1.0


def test_every_learning_rate_on_the_page_is_the_code_s():
    for owner in (A2CModule, RewardModule):
        section = TEXT.split("## Coming from RewardTrainer")[owner is RewardModule]
        (told,) = re.findall(r"; (\S+) here, (\S+) with adapters", section)
        source = inspect.getsource(owner.__init__)
        (rates,) = re.findall(r"FineTuningAdamW\(\w+, lr=([^,]+), adapter_lr=([^)]+)\)", source)
        assert told == rates


def test_the_config_on_the_page_trains(
    tiny_model_folder, tiny_reward_folder, data_files, tmp_path, monkeypatch
):
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    config = yaml.safe_load(block)
    arguments = config["model"]["init_args"]
    arguments["actor"]["init_args"]["backbone"]["name"] = str(tiny_model_folder)
    arguments["reward"]["init_args"]["backbone"]["name"] = str(tiny_reward_folder)
    arguments["sampling"]["max_new_tokens"] = 4
    config["data"] |= {"prompts": data_files.prompts, "batch_size": 4}
    config["trainer"] |= {"max_steps": 1, "default_root_dir": str(tmp_path), "logger": False}
    config["trainer"] |= {"enable_progress_bar": False, "limit_val_batches": 0}
    config["trainer"]["callbacks"] = [{"class_path": "rlaif_pl.training.callbacks.MetricsFile"}]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert cli.main(["fit", "--config", str(tmp_path / "mine.yaml")]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["a2c/train_kl"] == pytest.approx(0, abs=1e-5)  # policy and reference start equal
    assert metrics["a2c/train_value_loss"] > 0
