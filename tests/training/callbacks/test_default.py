"""The callbacks that every fit of the command line has."""

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

from rlaif_pl.cli import main as cli
from rlaif_pl.training import A2CModule, LabelingModule, RewardModule, SFTModule, callbacks
from rlaif_pl.training.callbacks import DefaultCallbacks, default_callbacks
from rlaif_pl.training.callbacks.default import callback_specs

RECORDS = ["RunLoggers", "RunMetadata", "MetricsFile", "TerminateOnNaN"]
ALARM = {"class_path": "rlaif_pl.training.callbacks.HackingAlarm", "init_args": {}}
BEST = {
    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
    "init_args": {"monitor": "a2c/val_reward", "save_top_k": 4},
}


def names(specs):
    return [spec["class_path"].rpartition(".")[2] for spec in specs]


@pytest.mark.parametrize(
    ("module", "more", "folder"),
    [
        (SFTModule, ["ExportModel", "ModelCheckpoint"], "policy"),
        (RewardModule, ["ExportModel", "ModelCheckpoint"], "reward_model"),
        (A2CModule, ["SampleTable", "ExportModel", "ModelCheckpoint"], "policy"),
        (LabelingModule, ["ModelCheckpoint"], None),
    ],
)
def test_each_module_gets_what_it_can_use(module, more, folder):
    made = default_callbacks(module, DefaultCallbacks(checkpoint_every=7))
    assert [type(each).__name__ for each in made] == [*RECORDS, *more]
    keeper = made[-1]
    assert isinstance(keeper, ModelCheckpoint)
    assert (keeper.save_last, keeper.save_top_k, keeper._every_n_train_steps) == (True, 0, 7)
    exports = [each.folder for each in made if isinstance(each, callbacks.ExportModel)]
    assert exports == ([] if folder is None else [folder])


def test_an_own_callback_stands_before_the_export_and_takes_the_place_of_its_default():
    table = {
        "class_path": "rlaif_pl.training.callbacks.SampleTable",
        "init_args": {"every_n_steps": 3},
    }
    found = callback_specs(A2CModule, [table, ALARM, BEST])
    own = ["SampleTable", "HackingAlarm", "ModelCheckpoint"]
    assert names(found) == [*RECORDS, *own, "ExportModel", "ModelCheckpoint"]
    assert found[4] is table
    assert callback_specs(A2CModule, found) == found  # a completed list stays as it is


def test_callbacks_are_switched_off_by_name():
    off = DefaultCallbacks(off=("RunLoggers", "ExportModel"))
    assert names(callback_specs(SFTModule, [], off)) == [*RECORDS[1:], "ModelCheckpoint"]
    assert callback_specs(SFTModule, [ALARM], DefaultCallbacks(off=("all",))) == [ALARM]
    assert "ModelCheckpoint" not in names(callback_specs(SFTModule, checkpointing=False))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"off": ("RunLogger",)}, "got 'RunLogger'"),
        ({"checkpoint_every": 0}, "checkpoint_every of at least 1, got 0"),
    ],
)
def test_wrong_options_are_refused(options, expected):
    with pytest.raises(ValueError, match=expected):
        DefaultCallbacks(**options)


def test_a_fit_writes_its_records_and_the_config_that_was_used(
    tmp_path, tiny_model_folder, data_files, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    root, path = tmp_path / "run", tmp_path / "fit.yaml"
    config = {
        "trainer": {
            "default_root_dir": str(root),
            "max_steps": 2,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "limit_val_batches": 0,
            "log_every_n_steps": 1,
        },
        "default_callbacks": {
            "checkpoint_every": 1,
            "export_to": "mine",
            "off": ["TerminateOnNaN"],
        },
        "model": {
            "class_path": "rlaif_pl.training.SFTModule",
            "init_args": {"backbone": {"name": str(tiny_model_folder), "trunk_layers": 2}},
        },
        "data": {"task": "demonstrations", "demonstrations": data_files.prompts},
    }
    path.write_text(yaml.safe_dump(config))
    assert cli.main(["fit", "--config", str(path)]) == 0
    for name in ("history.csv", "run_facts.json", "metrics.json", "mine/config.json"):
        assert (root / name).is_file(), name
    assert torch.load(root / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    used = yaml.safe_load((root / "resolved_config.yaml").read_text(encoding="utf-8"))
    kept = [*RECORDS[:3], "ExportModel", "ModelCheckpoint"]
    assert names(used["trainer"]["callbacks"]) == kept
    assert used["data"]["eval_batch_size"] == 16  # defaults are in it, too
    # the file is a config itself, and trains on from the checkpoint with the same callbacks
    again = ["fit", "--config", str(root / "resolved_config.yaml"), "--trainer.max_steps=3"]
    assert cli.main([*again, f"--ckpt_path={root}/checkpoints/last.ckpt"]) == 0
    used = yaml.safe_load((root / "resolved_config.yaml").read_text(encoding="utf-8"))
    assert names(used["trainer"]["callbacks"]) == kept
    assert torch.load(root / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
