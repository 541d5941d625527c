"""A head that gives one number a state, in float32 whatever the model around it runs in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from rlaif_pl.models.precision import HALVES


class ScalarHead(nn.Linear):
    """Linear map from a state to a reward or a value, in float32.

    Margins and returns need all 24 bits: the weights stay float32 where a trainer casts the module to
    16 bits (``bf16-true``), and the product is made outside autocast.

    Args:
        width: Size of a state, ``D``.
        bias: Whether to add a constant.
    """

    def __init__(self, width: int, bias: bool = True) -> None:
        super().__init__(width, 1, bias)

    @override
    def forward(self, states: Tensor) -> Tensor:
        """One number a state. ``(..., D)`` to ``(...)``."""
        with torch.autocast(states.device.type, enabled=False):
            return F.linear(states.to(self.weight.dtype), self.weight, self.bias).squeeze(-1)

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in HALVES else moved

        return super()._apply(kept, recurse)
