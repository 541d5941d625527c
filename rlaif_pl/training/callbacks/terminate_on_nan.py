"""A fit ends before a loss or a gradient that is NaN or infinite reaches the weights."""

from __future__ import annotations

from collections.abc import Iterable

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from typing_extensions import override

from rlaif_pl.errors import at_least

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
    parts = [(name, g.to_local() if isinstance(g, DTensor) else g) for name, g in found]
    own = {name: g for name, g in parts if g.numel()}
    # The largest absolute value: unlike a sum of squares it cannot overflow where nothing else did. Of
    # all at once: a look at each would be thousands of launches on a GPU.
    if not own or bool(nn.utils.get_total_norm(own.values(), float("inf")).isfinite()):
        return None
    bad = [name for name, g in own.items() if not bool(g.isfinite().all())]
    return f"the gradient norm is not finite, in {len(bad)} parameter(s), the first {bad[0]}"


def _message(trainer: Trainer, problem: str) -> str:
    keeper = trainer.checkpoint_callback
    saved = getattr(keeper, "last_model_path", "") or getattr(keeper, "best_model_path", "")
    where = f"the last checkpoint is {saved}" if saved else "no checkpoint has been saved"
    return f"stopped before optimizer step {trainer.global_step + 1}: {problem}; {where}. {ADVICE}"
