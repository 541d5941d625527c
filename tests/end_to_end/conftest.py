"""The quickstart experiment on the tiny model: the same stages and configs, smaller values."""

from pathlib import Path

import pytest
import yaml

from rlaif_pl.cli import main as cli
from rlaif_pl.config_paths import config_paths
from rlaif_pl.pipeline.process import arguments

QUICKSTART = config_paths() / "quickstart"
FIT = {
    "trainer.max_steps": 3,
    "trainer.max_epochs": -1,
    "trainer.accelerator": "cpu",
    "trainer.limit_val_batches": 1,
    "data.batch_size": 4,
}
LABELER = {
    "labeler.init_args.backend.init_args.model": "${model}",
    "labeler.init_args.temperature": 1.0,
}
GOLD = {"name": "tiny_tldr/dev", "limit": 8}
# Dotted keys laid over each stage's config, by stage name; ${model} is the tiny model.
SMALLER = {
    "sft": FIT
    | {
        "model.init_args.backbone.name": "${model}",
        "model.init_args.backbone.trunk_layers": 2,
        "data.demonstrations": "${prompts}",
        "data.validation": None,
    },
    "sample": {
        "policy.trunk_layers": 2,
        "prompts": "${prompts}",
        "sampling.n": 2,
        "sampling.max_new_tokens": 8,
    },
    "label": LABELER,
    "alignment": LABELER | {"data": GOLD, "draws": 50},
    "reward": FIT
    | {
        "model.init_args.reward.init_args.backbone.trunk_layers": 2,
        "model.init_args.reward.init_args.backbone.num_layers": 3,
        "model.init_args.references": "${prompts}",
    },
    "evaluate_reward": {
        "reward.init_args.backbone.trunk_layers": 2,
        "gold": GOLD,
        "draws": 50,
    },
    "a2c": FIT
    | {
        "model.init_args.actor.init_args.backbone.trunk_layers": 2,
        "model.init_args.reward.init_args.backbone.trunk_layers": 2,
        "model.init_args.sampling.max_new_tokens": 8,
        "model.init_args.sampling.n": 2,
        "trainer.limit_val_batches": 0,
        "data.prompts": "${prompts}",
        "data.validation": None,
    },
    "evaluate": LABELER
    | {
        "policy.trunk_layers": 2,
        "sft.trunk_layers": 2,
        "reward.init_args.backbone.trunk_layers": 2,
        "prompts": "${prompts}",
        "sampling.n": 2,
        "sampling.max_new_tokens": 8,
        "reporting.draws": 50,
    },
    "report": {},
}


def fill(value, known):
    """Put the tiny model and data in; placeholders of the experiment stay."""
    for name, text in known.items():
        if value == "${" + name + "}":
            return text
    return value


@pytest.fixture
def experiment(tmp_path, tiny_model_folder, data_files):
    """Write the experiment; returns its path. Options: how many stages, and keys for one of them."""

    def write(stages=None, **more):
        content = yaml.safe_load((QUICKSTART / "rlaif.yaml").read_text(encoding="utf-8"))
        assert {stage["name"] for stage in content["stages"]} == SMALLER.keys()
        known = {"model": str(tiny_model_folder), "prompts": data_files.prompts}
        content["out"] = str(tmp_path / "run")
        content["stages"] = content["stages"][:stages]
        for stage in content["stages"]:
            stage["config"] = str(QUICKSTART / stage["config"])
            keys = SMALLER[stage["name"]] | more.get(stage["name"], {})
            stage["set"] = {key: fill(value, known) for key, value in keys.items()} | stage.get(
                "set", {}
            )
        path = tmp_path / "experiment.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return path

    return write


def in_process(stage, folder: Path) -> int:
    """Run a stage's command line in this process."""
    return cli.main(arguments(stage, folder)[3:])


@pytest.fixture
def launch():
    """Return the launcher that starts no process."""
    return in_process
