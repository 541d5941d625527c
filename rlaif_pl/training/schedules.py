"""Learning-rate schedules stepped every batch."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import override


class LinearDecay(LambdaLR):
    """Rise linearly over ``warmup_steps``, then fall linearly to 0 at ``total_steps``.

    The first step has ``1 / warmup_steps`` of the peak, the last one of the warmup all of it. A resumed
    schedule has the step and the peak of its checkpoint, and the ``warmup_steps`` and ``total_steps``
    that it was made with: a longer fit raises ``total_steps``.

    Args:
        optimizer: Its learning rates are the peak.
        warmup_steps: Steps to reach the peak, at least 0.
        total_steps: Step at which the rate is 0; None keeps the peak after the warmup.

    Raises:
        ValueError: ``warmup_steps`` is negative or not below ``total_steps``.
    """

    def __init__(
        self, optimizer: Optimizer, warmup_steps: int = 0, total_steps: int | None = None
    ) -> None:
        if warmup_steps < 0 or (total_steps is not None and total_steps <= warmup_steps):
            raise ValueError(
                "expected 0 <= warmup_steps < total_steps, "
                f"got warmup_steps={warmup_steps}, total_steps={total_steps}"
            )
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        super().__init__(optimizer, self.factor)

    def factor(self, step: int) -> float:
        """Return what the peak rate is multiplied by at a step."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.total_steps is None:
            return 1.0
        peak = max(self.warmup_steps - 1, 0)
        return max(0.0, (self.total_steps - step) / (self.total_steps - peak))

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        own = {"warmup_steps": self.warmup_steps, "total_steps": self.total_steps}
        super().load_state_dict(state_dict | own)
        if own.items() <= state_dict.items():
            return
        # The optimizer has been given the rate of the other schedule for the next step.
        self._last_lr = [peak * self.factor(self.last_epoch) for peak in self.base_lrs]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate
