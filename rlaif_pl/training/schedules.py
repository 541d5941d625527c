"""Learning-rate schedules stepped every batch."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class LinearDecay(LambdaLR):
    """Rise linearly over ``warmup_steps``, then fall linearly to 0 at ``total_steps``.

    Args:
        optimizer: Its learning rates are the peak.
        warmup_steps: Steps to reach the peak.
        total_steps: Step at which the rate is 0; None keeps the peak after the warmup.
    """

    def __init__(
        self, optimizer: Optimizer, warmup_steps: int = 0, total_steps: int | None = None
    ) -> None:
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        super().__init__(optimizer, self.factor)

    def factor(self, step: int) -> float:
        """Return what the peak rate is multiplied by at a step."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.total_steps is None:
            return warm
        return warm * max(0.0, 1 - step / self.total_steps)
