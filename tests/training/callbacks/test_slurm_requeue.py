"""SLURM's signal ends a fit after its step; queued again, it ends with the unbroken run's numbers."""

import logging
import os
import signal
from pathlib import Path

import pytest
import torch
from two_ranks import component, small_fit

from rlaif_pl import slurm
from rlaif_pl.cli import main as cli
from rlaif_pl.data.preferences import write_prompts
from rlaif_pl.training.checkpoints import read_checkpoint

STEPS = 8


@pytest.fixture
def job(tmp_path, monkeypatch, tiny_model_folder, small_prompts):
    """A job of one task with a ``scontrol`` that notes its words; returns a maker of configs."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))  # fault, rank_record
    words = {"JOB_ID": 4711, "JOB_NAME": "a", "NTASKS": 1, "NTASKS_PER_NODE": 1, "NNODES": 1}
    for name, value in {**words, "PROCID": 0, "LOCALID": 0, "NODEID": 0}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    write_prompts(tmp_path / "train.jsonl", small_prompts[:5])
    data = {"demonstrations": str(tmp_path / "train.jsonl"), "validation_fraction": 0.0}

    def make(name, *callbacks):
        return small_fit(
            tmp_path / name,
            tiny_model_folder,
            data,
            *callbacks,
            save_every=100,
            trainer={"max_steps": STEPS, "devices": 1},
            default_callbacks={"off": ["all"]},
        )

    return make


def fit(file):
    assert cli.main(["fit", "--config", str(file)]) == 0
    return torch.load(file.with_suffix("") / "rank0.pt", weights_only=True)


def test_a_job_that_is_queued_again_ends_as_the_unbroken_one(job, tmp_path, monkeypatch, caplog):
    before = [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)]
    whole = fit(job("whole"))
    broken = [
        component("fault.Fault", signal_name=name, step=step, rank=0, marker=str(tmp_path / name))
        for name, step in (("SIGUSR1", 2), ("SIGTERM", 5))
    ]
    file = job("broken", *broken)
    for number, name in enumerate(("SIGUSR1", "SIGTERM")):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(number))
        with pytest.raises(SystemExit) as stop:
            fit(file)
        assert stop.value.code == 128 + signal.Signals[name]
        (last,) = (file.with_suffix("") / "checkpoints").glob("last.ckpt")
        assert read_checkpoint(last)["global_step"] == (3, 6)[number]
        # SIGTERM comes where SLURM queues a job again itself, or where its owner ends it
        assert (tmp_path / "called").read_text() == "requeue 4711\n"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    lightning = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    lightning.addHandler(caplog.handler)
    caplog.set_level(
        logging.INFO, lightning.name
    )  # other tests of this process may have changed it
    monkeypatch.setattr(lightning, "disabled", False)
    found = fit(file)
    lightning.removeHandler(caplog.handler)
    assert "restarted by SLURM: going on from" in caplog.text
    torch.testing.assert_close(found["weights"], whole["weights"], rtol=0, atol=0)
    histories = [(tmp_path / name / "history.csv").read_text() for name in ("whole", "broken")]
    assert histories[0] == histories[1]
    for number, handler in zip((signal.SIGUSR1, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)


def test_a_signal_before_the_first_step_queues_the_job_again(job, tmp_path, monkeypatch):
    def signalled(self):
        os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr("rlaif_pl.training.PreferenceDataModule.prepare_data", signalled)
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(SystemExit) as stop:
        fit(job("early"))
    signal.signal(signal.SIGUSR1, before)
    assert stop.value.code == 128 + signal.SIGUSR1
    assert (tmp_path / "called").read_text() == "requeue 4711\n"


def test_a_job_that_cannot_be_queued_again_is_told(monkeypatch, tmp_path, capfd):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert not slurm.requeue()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not slurm.requeue()
    assert "job 12_3 could not be queued again" in capfd.readouterr().err
