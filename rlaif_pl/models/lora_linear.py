"""The LoRA update of a linear layer in the type of the layer's result, with a backward of its own."""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override


class LoraLinear(lora.Linear):
    """PEFT's LoRA layer; a plain adapter (one, no dropout, no bias, no variant) is computed here.

    PEFT computes an update in the adapters' float32 and keeps the input in float32 for the backward
    pass: beside a bfloat16 base most of the time of a step. Here products take the type of the
    base's result, adapters and their gradients stay float32, as under autocast.
    """

    @override
    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        name = self._plain_adapter()
        if name is None or args or kwargs:
            return super().forward(x, *args, **kwargs)
        base: Tensor = self.base_layer(x)
        down, up = (cast(Tensor, part[name].weight) for part in (self.lora_A, self.lora_B))
        return low_rank_update(base, x, down, up, float(self.scaling[name]))

    def _plain_adapter(self) -> str | None:
        """Return the name of the one adapter that the update can be computed of here."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        (name,) = self.active_adapters
        if name not in self.lora_A or name in self.lora_variant:
            return None
        is_plain = isinstance(self.lora_dropout[name], nn.Identity)
        return name if is_plain and self.lora_B[name].bias is None else None


def low_rank_update(base: Tensor, x: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """Return ``base + scale * (x @ down.T) @ up.T`` in the type of ``base`` (arXiv 2106.09685, eq. 3).

    ``base`` is the result of the layer that is adapted, ``(..., O)``, ``x`` its input, ``(..., I)``;
    adapter A is ``down``, ``(r, I)``, B is ``up``, ``(O, r)``. Differentiable once; gradients have the
    types of what they belong to.
    """
    if not torch.is_grad_enabled():  # in each layer for each token drawn: a function takes longer
        return _updated(base, x, down, up, scale)[0]
    result: Tensor = _LowRankUpdate.apply(base, x, down, up, scale)
    return result


def _updated(base: Tensor, x: Tensor, down: Tensor, up: Tensor, scale: float) -> tuple[Tensor, ...]:
    rows = x.flatten(0, -2).to(base.dtype)
    down, up = down.to(base.dtype), up.to(base.dtype)
    inner = (rows @ down.T).mul_(scale)
    result = torch.addmm(base.flatten(0, -2), inner, up.T).view_as(base)
    return result, rows, inner, down, up


class _LowRankUpdate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, base: Tensor, x: Tensor, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        ctx.scale, ctx.types = scale, (x.dtype, down.dtype, up.dtype)
        result, *parts = _updated(base, x, down, up, scale)
        ctx.save_for_backward(*parts)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, inner, down, up = ctx.saved_tensors
        of_x, of_down, of_up = ctx.types
        above = grad.flatten(0, -2)
        below = (above @ up).mul_(ctx.scale)
        dx = dd = du = None
        if ctx.needs_input_grad[1]:
            dx = (below @ down).view(*grad.shape[:-1], -1).to(of_x)
        if ctx.needs_input_grad[2]:
            dd = (below.T @ rows).to(of_down)
        if ctx.needs_input_grad[3]:
            du = (inner.T @ above).T.to(of_up)
        return grad, dx, dd, du, None
