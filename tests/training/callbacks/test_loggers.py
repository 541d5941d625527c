import os
from types import SimpleNamespace

import pytest
import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import Strategy

from rlaif_pl.data.csv_rows import read_table
from rlaif_pl.training.callbacks import HistoryFile, RunLoggers, default_loggers
from rlaif_pl.training.callbacks.loggers import (
    WANDB_FOLDERS,
    has_credentials,
    run_id,
    use_writable_folders,
    wandb_mode,
)


@pytest.fixture(autouse=True)
def stranger(monkeypatch, tmp_path):
    """No account, and a home folder of its own."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC", *WANDB_FOLDERS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


@pytest.mark.parametrize(
    ("asked", "mode"),
    [("", "offline"), ("offline", "offline"), ("dryrun", "offline"), ("disabled", "disabled")],
)
def test_without_an_account_nothing_goes_online(monkeypatch, asked, mode):
    monkeypatch.setenv("WANDB_MODE", asked)
    assert wandb_mode() == mode


def test_a_key_makes_runs_online_unless_the_mode_says_otherwise(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert wandb_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_mode() == "offline"


def test_credentials_in_netrc_are_found_for_the_right_host(monkeypatch, tmp_path):
    assert not has_credentials()
    (tmp_path / "home" / ".netrc").write_text("machine api.wandb.ai login user password x\n")
    assert has_credentials()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_credentials()
    (tmp_path / "other").write_text("machine wandb.example.org login user password x\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "other"))
    assert has_credentials()


def test_a_misspelt_mode_is_refused(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offlin")
    with pytest.raises(ValueError, match="got 'offlin'"):
        wandb_mode()


def test_a_disabled_account_leaves_the_history_file(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert [type(logger) for logger in default_loggers(tmp_path / "run")] == [HistoryFile]


def test_a_home_that_cannot_be_written_moves_the_folders_of_wandb(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.setenv("WANDB_CACHE_DIR", "/chosen")
    use_writable_folders(tmp_path)
    assert os.environ["WANDB_CACHE_DIR"] == "/chosen"
    assert os.environ["WANDB_CONFIG_DIR"] == str(tmp_path / "wandb" / "config")
    assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "wandb" / "data")


def test_a_resumed_run_keeps_its_identity(tmp_path):
    assert run_id(tmp_path) == run_id(tmp_path)


def values(path):
    return [{k: v for k, v in row.items() if v} for row in read_table(path).rows]


@pytest.mark.parametrize("is_late", [False, True])  # when the strategy reads a checkpoint
def test_a_new_fit_in_a_used_folder_has_its_own_history(monkeypatch, tmp_path, fit, is_late):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(Strategy, "restore_checkpoint_after_setup", property(lambda _: is_late))
    path = tmp_path / "history.csv"
    path.write_text("step,old\n0,1.0\n9,2.0\n")
    trainer = fit(callbacks=[RunLoggers()], max_steps=2)
    rows = values(path)
    assert [row["step"] for row in rows] == ["0", "1"]
    assert all("old" not in row for row in rows)
    assert (tmp_path / "history.csv.old").read_text() == "step,old\n0,1.0\n9,2.0\n"
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    fit(callbacks=[RunLoggers()], ckpt_path=tmp_path / "a.ckpt")
    assert values(path)[:2] == rows  # a resumed one goes on in it
    assert [row["step"] for row in values(path)] == ["0", "1", "2", "3"]
    assert (tmp_path / "history.csv.old").read_text() == "step,old\n0,1.0\n9,2.0\n"


@pytest.mark.parametrize("resumed", [None, "a.ckpt"])
def test_a_new_fit_is_another_run_of_wandb(monkeypatch, tmp_path, resumed):
    monkeypatch.setenv("WANDB_MODE", "offline")  # WandbLogger sets it, and is undone with it
    old = run_id(tmp_path)
    strategy = SimpleNamespace(restore_checkpoint_after_setup=False)
    trainer = SimpleNamespace(
        loggers=[],
        default_root_dir=tmp_path,
        strategy=strategy,
        ckpt_path=resumed,
        is_global_zero=True,
    )
    callback = RunLoggers()
    callback.setup(trainer, None, "fit")
    callback.on_fit_start(trainer, None)
    ids = {trainer.loggers[1].version, trainer.loggers[1]._wandb_init["id"], run_id(tmp_path)}
    assert len(ids) == 1
    assert (ids == {old}) is (resumed is not None)
    callback.on_train_start(trainer, None)  # once a fit
    assert ids == {run_id(tmp_path)}


def test_a_first_fit_leaves_nothing_of_an_earlier_one(monkeypatch, tmp_path, fit):
    monkeypatch.setenv("WANDB_MODE", "offline")
    try:
        fit(callbacks=[RunLoggers()], max_steps=1)
    finally:
        wandb.finish()
    assert not list(tmp_path.glob("*.old"))


def test_a_fit_logs_offline_even_where_home_cannot_be_written(monkeypatch, tmp_path, fit):
    monkeypatch.setenv("HOME", "/proc/none")
    for name in WANDB_FOLDERS:  # set here so that they are unset again afterwards
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    try:
        trainer = fit(callbacks=[RunLoggers("project")], enable_checkpointing=True)
    finally:
        wandb.finish()
        os.environ.pop("WANDB_MODE", None)  # set by WandbLogger
    assert [type(logger) for logger in trainer.loggers] == [HistoryFile, WandbLogger]
    assert len(read_table(tmp_path / "history.csv").rows) == 4
    assert list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert list((tmp_path / "checkpoints").glob("*.ckpt"))
