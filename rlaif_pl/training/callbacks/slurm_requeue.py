"""A fit whose job SLURM is to end saves, and has the job queued again."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
from typing_extensions import override

from rlaif_pl import slurm
from rlaif_pl.training.checkpoints import save_last


class SlurmRequeue(Callback):
    """Ends a fit after the step in which a signal comes, with ``last.ckpt`` of that step.

    On the environment's requeue signal (SIGUSR1) the job is queued again; on SIGTERM, which SLURM sends
    where it does that itself or is not to, the fit only saves. The exit status is 128 + the signal's
    number. Lightning's own handler saves in the middle of a step, and goes on training.
    """

    def __init__(self, environment: SLURMEnvironment) -> None:
        self.signal = int(environment.requeue_signal or signal.SIGUSR1)
        self.rank = environment.global_rank()
        self._received = self._agreed = 0
        self._is_training = False
        self._step = 0
        signal.signal(self.signal, self._note)  # before a step has begun there is nothing to save

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_training, self._step = True, trainer.global_step
        signal.signal(signal.SIGTERM, self._note)  # Lightning's handler speaks to other ranks

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_training = False

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self._step:
            return  # in the middle of an accumulated batch, whose gradients no checkpoint holds
        self._step = trainer.global_step
        # the signal reaches the ranks in different steps: all leave when the first has seen it
        told = torch.tensor(self._received, device=trainer.strategy.root_device)
        number = int(trainer.strategy.reduce(told, reduce_op="max"))  # type: ignore[arg-type]
        if not number:
            return
        save_last(trainer)
        self._agreed = number

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self._agreed:  # loggers have the last step's metrics by now
            self._leave(self._agreed)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._received = number
        if not self._is_training:
            self._leave(number)

    def _leave(self, number: int) -> None:
        if self.rank == 0 and number == self.signal:
            slurm.requeue()
        raise SystemExit(128 + number)


def add_requeue(trainer: Trainer) -> None:
    """Give a trainer a ``SlurmRequeue`` where SLURM started it and may be asked to do so again."""
    environment = trainer._accelerator_connector.cluster_environment
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
        return
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    saving = (n for n, callback in enumerate(callbacks) if isinstance(callback, Checkpoint))
    # once all others have seen the step
    callbacks.insert(next(saving, len(callbacks)), SlurmRequeue(environment))
