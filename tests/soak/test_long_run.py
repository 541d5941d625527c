"""A run that is killed again and again ends as the unbroken one, and grows in no way."""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rlaif_pl.training.checkpoints import read_checkpoint

LIFE = 60.0  # seconds from the first new step to a kill, on average, in a soak
FLAT = 2000  # bytes of memory a step that are called flat: 40 MB in 20,000 steps


def same_end(killed, whole) -> None:
    """Compare weights, optimizer, history and samples, byte for byte."""
    for name in ("history.csv", "samples.csv"):
        assert (killed.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
    weights = [load_file(run.folder / "policy/model.safetensors") for run in (killed, whole)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    last = [read_checkpoint(run.folder / "checkpoints/last.ckpt") for run in (killed, whole)]
    torch.testing.assert_close(last[0]["state_dict"], last[1]["state_dict"], rtol=0, atol=0)
    assert str(last[0]["optimizer_states"]) == str(last[1]["optimizer_states"])


def files(run) -> list[str]:
    return sorted(str(p.relative_to(run.folder)) for p in run.folder.rglob("*") if p.is_file())


def slope(memory) -> float:
    """Bytes a step, by least squares, without the first third."""
    steps, sizes = np.array(memory[len(memory) // 3 :], dtype=float).T
    return float(np.polyfit(steps, sizes, 1)[0])


def test_a_run_killed_twice_has_the_unbroken_one_s_samples_and_weights(long_run):
    # an epoch has 6 steps: both times it goes on from the last step of one
    whole, killed = long_run("whole", 24, 6), long_run("killed", 24, 6)
    whole.finish()
    killed.finish(at_steps=(8, 15))  # samples of steps 7 and 14 follow the checkpoints
    assert killed.kills == 2
    same_end(killed, whole)
    assert files(killed) == files(whole)


@pytest.mark.soak
def test_memory_is_flat_files_are_bounded_and_the_end_is_equal(long_run):
    minutes = float(os.environ.get("RLAIF_PL_SOAK_MINUTES") or 40)
    first = long_run("first", 100, 20)
    pace = 100 / first.finish()
    steps = min(20_000, max(200, int(0.35 * minutes * 60 * pace) // 20 * 20))
    whole, killed = long_run("whole", steps, 20), long_run("killed", steps, 20)
    seconds = whole.finish()
    broken = killed.finish(every=min(LIFE, seconds / 5))
    grown = slope(whole.memory)
    print(
        f"A2C: {steps} steps in {seconds:.0f} s unbroken, in {broken:.0f} s with {killed.kills} kills; "
        f"memory {grown:+.0f} bytes a step ({max(m for _, m in whole.memory) / 1e6:.0f} MB at most); "
        f"{len(files(killed))} files"
    )
    assert killed.kills >= 3
    same_end(killed, whole)
    # what a kill leaves is written over: as many files as without one
    assert len(files(killed)) <= len(files(whole)) + 1
    assert grown < FLAT
