"""The head that makes one number of a state, a reward or a value, in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from rlaif_pl.models.device import HALVES


class ScalarHead(nn.Linear):
    """Linear map from a state ``(D,)`` to a reward or a value, in float32.

    Margins and returns need all 24 bits: the weights stay float32 where a trainer casts the module to
    16 bits (``bf16-true``), and the product is made outside autocast.
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
