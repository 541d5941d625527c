"""Callback for tests with several processes: a fault at a step of one rank, once (no test in here)."""

import os
import signal
from pathlib import Path

from lightning.pytorch import Callback


class Fault(Callback):
    """Sends a signal to its own process before a step, unless the marker is there already.

    Args:
        signal_name: SIGKILL for a process that dies, SIGSTOP for one that hangs.
        step: Optimizer steps before it.
        rank: Whose process.
        marker: File that says that it has happened.
    """

    def __init__(self, signal_name: str, step: int, rank: int, marker: str) -> None:
        self.number = signal.Signals[signal_name]
        self.step, self.rank, self.marker = step, rank, Path(marker)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):  # noqa: ARG002
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            if self.marker.exists():
                return
            self.marker.touch()
            os.kill(os.getpid(), self.number)
