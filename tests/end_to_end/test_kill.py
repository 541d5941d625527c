"""A run killed in the middle of a stage goes on there and ends as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlaif_pl.pipeline import run

ROOT = Path(__file__).parents[2]
STEPS = 30
PATIENCE = 300  # seconds, for machines that are busy with something else


@pytest.fixture
def changes(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    saving = {"default_callbacks": {"checkpoint_every": 5}}
    return {"trainer.max_steps": STEPS, "trainer.limit_val_batches": 0, **saving}


def kill_after_a_checkpoint(file, checkpoint):
    """Start the experiment in processes of its own and kill them once a checkpoint is written.

    They get this process's number of threads: sums in another order are other numbers.
    """
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "rlaif_pl", "run", str(file), "--no_check"],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        cwd=file.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + PATIENCE
    try:
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert checkpoint.exists()


@pytest.mark.slow
def test_a_killed_fit_goes_on_and_equals_the_unbroken_one(experiment, launch, tmp_path, changes):
    file = experiment(1, sft=changes)
    out, whole = tmp_path / "run", tmp_path / "whole"
    kill_after_a_checkpoint(file, out / "sft" / "checkpoints" / "last.ckpt")
    assert not (out / "sft" / "done.json").exists()
    assert run(file, launch=launch) == 0
    rows = (out / "sft" / "history.csv").read_text().splitlines()
    assert len(rows) == 1 + STEPS
    assert run(file, out=whole, launch=launch) == 0
    weights = (load_file(place / "sft/policy/model.safetensors") for place in (out, whole))
    torch.testing.assert_close(*weights, rtol=0, atol=0)
