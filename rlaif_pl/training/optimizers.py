"""The optimizer that modules take where none is named, and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import override

from rlaif_pl.errors import at_least

MARK = "rlaif_pl_is_adapter"  # attribute of parameters: optimizers are not told names


class FineTuningAdamW(AdamW):
    """AdamW with a learning rate for whole layers and one for LoRA adapters.

    One rate holds for all weights of a module: ``adapter_lr`` where adapters are among them, ``lr``
    otherwise. Adapters want about ten times the rate of whole layers, in SFT as in RL (Schulman et al.
    2025, "LoRA Without Regret"; TRL's guide to PEFT). No weight decay, as in transformers' trainer.

    | default of | `lr` | `adapter_lr` | source of `lr` |
    |---|---|---|---|
    | `SFTModule` | 2e-5 | 2e-4 | TRL 1.16, `SFTConfig` |
    | `RewardModule` | 1e-5 | 1e-4 | arXiv 2309.00267, appendix; TRL 1.16's `RewardConfig` has 1e-4 |
    | `A2CModule` | 1e-6 | 1e-5 | TRL 1.16, `RLOOConfig` and `GRPOConfig` |
    | `DPOModule` | 1e-6 | 1e-5 | TRL 1.16, `DPOConfig` |

    Args:
        params: Parameters, or groups of them, as any optimizer of torch takes them.
        lr: Learning rate where whole layers are trained.
        adapter_lr: Learning rate where adapters are trained, heads beside them included.
        betas: Decay of the running means of gradient and squared gradient.
        eps: Added to the denominator.
        weight_decay: Decoupled weight decay.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-5,
        adapter_lr: float = 2e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        given = list(params)
        groups = ([each] if isinstance(each, Tensor) else each["params"] for each in given)
        has_adapters = any(getattr(each, MARK, False) for each in chain.from_iterable(groups))
        rate = adapter_lr if has_adapters else lr
        super().__init__(given, lr=rate, betas=betas, eps=eps, weight_decay=weight_decay)


def mark_adapters(named: Mapping[str, nn.Parameter]) -> None:
    """Let an optimizer that is made next (FSDP2 replaces parameters) know which are LoRA adapters'."""
    for name, parameter in named.items():
        setattr(parameter, MARK, ".lora_" in name)


class ConstantWithWarmup(LambdaLR):
    """Rise linearly over ``warmup_steps``, then stay: what modules take where no schedule is named.

    The first step has ``1 / warmup_steps`` of the peak, the last of the warmup all of it. A fit that
    goes on after its end equals a longer one. A resumed schedule has the step and the peak of its
    checkpoint, and the ``warmup_steps`` it was made with.

    Args:
        optimizer: Its learning rates are the peak.
        warmup_steps: Steps to reach the peak, at least 0.
    """

    total_steps: int | None = None

    def __init__(self, optimizer: Optimizer, warmup_steps: int = 0) -> None:
        at_least(0, warmup_steps=warmup_steps)
        self.warmup_steps = warmup_steps
        super().__init__(optimizer, self.factor)

    def factor(self, step: int) -> float:
        """Return what the peak rate is multiplied by at a step."""
        return (step + 1) / self.warmup_steps if step < self.warmup_steps else 1.0

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


class LinearDecay(ConstantWithWarmup):
    """Rise linearly over ``warmup_steps``, then fall linearly to 0 at ``total_steps``.

    As ``ConstantWithWarmup``, and a resumed schedule has the ``total_steps`` that it was made with: a
    longer fit raises it, or leaves it out.

    Args:
        optimizer: Its learning rates are the peak.
        warmup_steps: Steps to reach the peak, at least 0.
        total_steps: Optimizer step at which the rate is 0; None: where the fit ends, by the trainer's
            ``max_steps`` or ``max_epochs``, which the modules of this package say.
    """

    def __init__(
        self, optimizer: Optimizer, warmup_steps: int = 0, total_steps: int | None = None
    ) -> None:
        if warmup_steps < 0 or (total_steps is not None and total_steps <= warmup_steps):
            raise ValueError(
                "expected 0 <= warmup_steps < total_steps, "
                f"got warmup_steps={warmup_steps}, total_steps={total_steps}"
            )
        self.total_steps = total_steps
        super().__init__(optimizer, warmup_steps)

    def end_at(self, steps: float) -> None:
        """Take the steps of a fit for ``total_steps`` where that was left out; see ``ValueError``.

        Warns where the fit goes on at a rate of 0, and where it ends within the warmup.
        """
        if self.total_steps is not None:
            if steps > self.total_steps:
                rank_zero_warn(
                    f"the learning rate is 0 from step {self.total_steps} of LinearDecay on, and the "
                    f"fit goes on to step {steps}: raise total_steps, or leave it out for the fit's end"
                )
            return
        if math.isinf(steps):
            raise ValueError(
                "expected trainer.max_steps or trainer.max_epochs with LinearDecay, got a fit without "
                "an end; set one, total_steps of LinearDecay, or take ConstantWithWarmup"
            )
        if steps <= self.warmup_steps:
            rank_zero_warn(
                f"expected warmup_steps below the {int(steps)} steps of the fit, got "
                f"{self.warmup_steps}: the learning rate does not fall; lower it, or train longer"
            )
        self.total_steps = max(int(steps), self.warmup_steps + 1)

    @override
    def factor(self, step: int) -> float:
        peak = max(self.warmup_steps - 1, 0)
        if step <= peak:
            return super().factor(step)
        if self.total_steps is None:
            raise ValueError(
                "expected total_steps of LinearDecay, got none, and no module of rlaif_pl that takes "
                "the trainer's; set it, or take ConstantWithWarmup"
            )
        return max(0.0, (self.total_steps - step) / (self.total_steps - peak))
