"""``last.ckpt`` is of the last step wherever a fit ends, and a longer fit goes on from it exactly."""

import json
import os
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from rlaif_pl.training import LinearDecay
from rlaif_pl.training.callbacks import ExportModel, HistoryFile, MetricsFile
from rlaif_pl.training.checkpoints import read_checkpoint

EPOCH = 3  # 10 training rows in batches of 4


class StopAt(Callback):
    """Ends a fit as an alarm does."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


@pytest.fixture
def fit(build, trainer, weights, tmp_path):
    """Return a runner of fits in folders; gives weights, epoch, steps and ``history.csv``."""

    def run(folder, steps=-1, every=100, resume=False, callbacks=(), stage="sft", **changes):
        root = tmp_path / folder
        keeper = ModelCheckpoint(
            root, save_last=True, save_top_k=0, every_n_train_steps=every or None
        )
        settings = {"logger": HistoryFile(root), "log_every_n_steps": 1, "limit_val_batches": 1.0}
        settings |= {"check_val_every_n_epoch": None, "val_check_interval": 5, **changes}
        run = trainer(
            steps,
            callbacks=[*callbacks, keeper],
            enable_checkpointing=True,
            default_root_dir=root,
            **settings,
        )
        module, data = build(stage)
        run.fit(module, data, ckpt_path=root / "last.ckpt" if resume else None)
        history = (root / "history.csv").read_text()
        return weights(module), run.current_epoch, run.global_step, history

    return run


@pytest.mark.parametrize("stop", [2, EPOCH, 5, 2 * EPOCH])  # 5: validated there, within an epoch
@pytest.mark.parametrize("every", [100, 4, 1, None])  # None: by epoch
def test_a_fit_that_goes_on_after_its_end_equals_a_longer_one(fit, tmp_path, stop, every):
    expected = fit("whole", steps=8, every=every)
    fit("half", steps=stop, every=every)
    assert read_checkpoint(tmp_path / "half" / "last.ckpt")["global_step"] == stop
    found = fit("half", steps=8, every=every, resume=True)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=0)
    assert found[1:] == expected[1:]
    assert read_checkpoint(tmp_path / "half" / "last.ckpt")["global_step"] == 8


@pytest.mark.parametrize("stage", ["reward", "a2c"])
def test_so_does_every_stage(fit, stage):
    expected = fit("whole", steps=7, stage=stage)
    fit("half", steps=4, stage=stage)
    found = fit("half", steps=7, resume=True, stage=stage)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=0)
    assert found[1:] == expected[1:]


def test_a_link_to_an_earlier_step_becomes_a_file_of_the_last_one(build, trainer, tmp_path):
    def run(steps, path=None):
        keeper = ModelCheckpoint(
            tmp_path, "{step}", save_last="link", every_n_train_steps=2, save_top_k=-1
        )
        fit = trainer(steps, callbacks=[keeper], enable_checkpointing=True)
        fit.fit(*build("sft"), ckpt_path=path)
        assert keeper.save_last == "link"

    last = tmp_path / "last.ckpt"
    run(4)
    assert last.is_symlink()
    for steps in (5, 7):
        run(steps, last)
        assert read_checkpoint(last)["global_step"] == steps
        assert not last.is_symlink()
    assert sorted(path.stem for path in tmp_path.glob("step*")) == ["step=2", "step=4", "step=6"]
    assert read_checkpoint(tmp_path / "step=4.ckpt")["global_step"] == 4


@pytest.mark.parametrize("every", [100, 4])
def test_a_fit_by_epochs_can_be_repeated_and_go_on(fit, tmp_path, every):
    expected = fit("whole", max_epochs=3, every=every)
    once = fit("part", max_epochs=2, every=every)
    written = (tmp_path / "part" / "last.ckpt").stat().st_mtime_ns
    for _ in range(2):  # as a pipeline does whose export failed
        again = fit("part", max_epochs=2, every=every, resume=True)
        torch.testing.assert_close(again[0], once[0], rtol=0, atol=0)
        assert again[1:3] == once[1:3] == (2, 2 * EPOCH)
        assert (tmp_path / "part" / "last.ckpt").stat().st_mtime_ns == written
    found = fit("part", max_epochs=3, every=every, resume=True)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=0)
    assert found[1:] == expected[1:]
    assert read_checkpoint(tmp_path / "part" / "last.ckpt")["global_step"] == 3 * EPOCH


def test_a_fit_that_a_callback_stops_goes_on_where_it_was(fit):
    never = {"limit_val_batches": 0}  # Lightning validates where a callback stops it
    expected = fit("whole", steps=8, **never)
    stopped = fit("half", steps=8, callbacks=[StopAt(4)], **never)
    assert stopped[2] == 4
    found = fit("half", steps=8, resume=True, **never)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=0)
    assert found[1:] == expected[1:]


class Rates(Callback):
    """Keeps the learning rate of each step."""

    def __init__(self):
        self.rates = []

    def on_train_batch_start(self, trainer, *_):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_added_steps_have_the_rates_of_the_longer_schedule(build, trainer, tmp_path):
    def run(steps, path=None):
        seen = Rates()
        schedule = partial(LinearDecay, total_steps=steps)
        fit = trainer(steps, tmp_path, callbacks=[seen])
        fit.fit(*build("sft", scheduler=schedule), ckpt_path=path)
        return [rate / 1e-2 for rate in seen.rates]

    assert run(4) == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert run(8, tmp_path / "last.ckpt") == pytest.approx([0.5, 0.375, 0.25, 0.125])


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        ({"max_steps": 4}, [1.0, 0.75, 0.5, 0.25]),
        ({"max_steps": -1, "max_epochs": 2}, [1 - n / 6 for n in range(6)]),
        # two batches a step, the third of each epoch a step of its own
        (
            {"max_steps": -1, "max_epochs": 2, "accumulate_grad_batches": 2},
            [1, 1, 3 / 4, 2 / 4, 2 / 4, 1 / 4],
        ),
    ],
)
def test_a_decay_without_total_steps_ends_with_the_fit(build, trainer, length, expected):
    seen = Rates()
    trainer(callbacks=[seen], **length).fit(*build("sft", scheduler=LinearDecay))
    assert [rate / 1e-2 for rate in seen.rates] == pytest.approx(expected)


def test_a_killed_fit_goes_on_at_the_rates_that_it_would_have_had(build, trainer, tmp_path):
    def run(folder, path=None, callbacks=()):
        seen = Rates()
        fit = trainer(6, tmp_path / folder, callbacks=[seen, *callbacks])
        fit.fit(*build("sft", scheduler=LinearDecay), ckpt_path=path)
        return seen.rates

    whole = run("whole")
    first = run("part", callbacks=[StopAt(4)])
    assert first + run("part", tmp_path / "part" / "last.ckpt") == whole


def test_a_fit_that_goes_on_at_a_rate_of_0_says_so(build, trainer):
    schedule = partial(LinearDecay, total_steps=2)
    with pytest.warns(UserWarning, match="is 0 from step 2 of .* goes on to step 3"):
        trainer(3).fit(*build("sft", scheduler=schedule))


def test_a_decay_over_a_fit_without_an_end_is_refused(build, trainer):
    with pytest.raises(ValueError, match="expected trainer.max_steps or trainer.max_epochs"):
        trainer(-1).fit(*build("sft", scheduler=LinearDecay))


@pytest.fixture
def reward_fit(build, trainer, data_files, tmp_path):
    """Return a runner of fits of a reward of four steps, with its records and its export."""

    def run(resume=False, export=None):
        module, data = build("reward", references=data_files.prompts)
        if export is not None:
            module.export = export
        callbacks = [MetricsFile(), ExportModel("model")]
        run = trainer(4, tmp_path, callbacks=callbacks, default_root_dir=tmp_path)
        run.fit(module, data, ckpt_path=tmp_path / "last.ckpt" if resume else None)
        return module

    return run


def fail(*_):
    raise OSError("no room")


def test_a_fit_that_died_after_its_last_step_is_exported_as_it_would_have_been(
    reward_fit, tmp_path
):
    with pytest.raises(OSError, match="no room"):
        reward_fit(export=fail)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    (tmp_path / "metrics.json").unlink()  # as if it had died before
    with pytest.warns(UserWarning, match="is of the last step, so nothing was trained"):
        module = reward_fit(resume=True)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics != {}
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["reward_shift"] == module.reward.shift.item() != 0.0
    assert reward_fit().reward.shift.item() == config["reward_shift"]


def test_metrics_of_the_end_are_kept_and_older_ones_replaced(reward_fit, tmp_path):
    reward_fit()
    path, saved = tmp_path / "metrics.json", (tmp_path / "last.ckpt").stat().st_mtime
    for shift, is_kept in ((60, True), (-60, False)):
        path.write_text('{"validated": 1.0}')
        os.utime(path, (saved + shift, saved + shift))
        reward_fit(resume=True)
        assert (json.loads(path.read_text()) == {"validated": 1.0}) is is_kept


def test_metrics_that_a_resumed_fit_does_not_log_again_are_kept(build, trainer, tmp_path):
    def run(steps, **changes):
        fit = trainer(
            steps, tmp_path, callbacks=[MetricsFile()], default_root_dir=tmp_path, **changes
        )
        path = tmp_path / "last.ckpt"
        fit.fit(*build("sft"), ckpt_path=path if path.exists() else None)
        return json.loads((tmp_path / "metrics.json").read_text())

    often = {"limit_val_batches": 1.0, "check_val_every_n_epoch": None, "val_check_interval": 2}
    first, second = run(3, **often), run(4)
    assert first["sft/val_loss"] == second["sft/val_loss"]
    assert first["sft/train_loss"] != second["sft/train_loss"]
