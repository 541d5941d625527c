"""Guards of a fit: against numbers that are none, the end of a job's time, and holes in memory."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from typing_extensions import override

from rlaif_pl import slurm
from rlaif_pl.engine.allocator import page_tensors
from rlaif_pl.errors import above, at_least
from rlaif_pl.training.checkpoints import save_last

ADVICE = (
    "Try, in this order: a lower learning rate, gradient clipping (trainer.gradient_clip_val: "
    "1.0), float32 or bf16 in place of fp16, and a look at the batch (an empty response, an "
    "infinite reward)."
)


class NonFiniteError(RuntimeError):
    """The loss or the gradient is NaN or infinite."""


class TerminateOnNaN(Callback):
    """Ends a fit with ``NonFiniteError`` before the optimizer applies a NaN or an infinity.

    All ranks decide together, so none is left waiting. Under fp16 with a gradient scaler infinite
    gradients are normal (the scaler skips such steps), and only the loss is looked at.

    Args:
        every_n_steps: Optimizer steps between two looks at the gradient, at least 1. A look makes
            the device catch up with the program; the loss is looked at as often.
    """

    def __init__(self, every_n_steps: int = 1) -> None:
        at_least(1, **{"TerminateOnNaN.every_n_steps": every_n_steps})
        self.every_n_steps = every_n_steps
        self._losses: list[Tensor] = []

    @override
    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            self._losses.append(loss.detach())

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if trainer.global_step % self.every_n_steps:
            return
        losses, self._losses = self._losses, []
        problem = next(
            (f"the loss is {loss.item()}" for loss in losses if not loss.isfinite().all()), None
        )
        if problem is None and getattr(trainer.precision_plugin, "scaler", None) is None:
            problem = gradient_problem(pl_module.named_parameters())
        stop = problem is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            raise NonFiniteError(_message(trainer, problem or "another rank met a NaN or infinity"))


def gradient_problem(parameters: Iterable[tuple[str, nn.Parameter]]) -> str | None:
    """Name the first parameter whose gradient is not finite; None if all are."""
    found = [(name, p.grad) for name, p in parameters if p.grad is not None]
    # Of divided gradients each process looks at its own rows; it may have none.
    own = [(name, g.to_local() if isinstance(g, DTensor) else g) for name, g in found]
    # The largest absolute value: unlike a sum of squares it cannot overflow where nothing else did.
    largest = {n: torch.linalg.vector_norm(g, ord=float("inf")) for n, g in own if g.numel()}
    if not largest:
        return None
    finite = torch.stack([torch.isfinite(value) for value in largest.values()]).tolist()
    bad = [name for name, good in zip(largest, finite, strict=True) if not good]
    if not bad:
        return None
    return f"the gradient norm is not finite, in {len(bad)} parameter(s), the first {bad[0]}"


def _message(trainer: Trainer, problem: str) -> str:
    keeper = trainer.checkpoint_callback
    saved = getattr(keeper, "last_model_path", "") or getattr(keeper, "best_model_path", "")
    where = f"the last checkpoint is {saved}" if saved else "no checkpoint has been saved"
    return f"stopped before optimizer step {trainer.global_step + 1}: {problem}; {where}. {ADVICE}"


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


class CompactMemory(Callback):
    """Lets every larger tensor on the CPU have pages of its own, which go back when it is freed.

    glibc cuts tensors of up to 32 MiB out of its heap, where what a forward pass frees lies in holes.
    Pages of their own cost page faults instead: less memory, somewhat more time. It holds for the
    whole process; without glibc nothing happens.

    Args:
        threshold_kb: Tensors of at least so many KiB get pages of their own, above 0.
    """

    def __init__(self, threshold_kb: int = 128) -> None:
        above(0, threshold_kb=threshold_kb)
        self.threshold_kb = threshold_kb

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        page_tensors(self.threshold_kb)
