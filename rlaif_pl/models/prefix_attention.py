"""Attention of a packed row in which all continuations of a prefix read one copy of its keys.

The softmax of a continuation's token runs over the prefix's keys and its own. The two parts are
computed apart, the first for all continuations of a prefix at once, and joined by their log-sum-exp
(the decomposition of Hydragen, Juravsky et al. 2024, arXiv 2402.05099, which is for inference). The
backward pass is exact too: with ``s`` the scores, ``p = exp(s - lse)`` needs no more of the other part
than the joint ``lse``, and ``ds = p (dp - rowsum(dO * O))`` no more than the joint output (Dao et al.
2022, arXiv 2205.14135, appendix B.2). So either part's gradient is that of plain attention, given the
joint output and log-sum-exp.

Laying the prefix's keys beside each continuation's own instead takes ``K (P + R)`` keys and values a
prefix, repeated for all heads that share them. Here nothing is copied, and what is kept for the
backward pass is queries, keys, values, output (one copy serves the layer's next projection too) and
one number a token and head.

Runs on torch's fused CPU attention. Elsewhere, and where scores are capped or a window cuts some of
them off, ``pair_attention`` joins the keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlaif_pl.models.pair_layout import PackedRow

_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def suits(
    query: Tensor, key: Tensor, value: Tensor, row: PackedRow, window: int | None, cap: float | None
) -> bool:
    """Whether ``attend`` computes a layer's attention; the arguments are those of the layer."""
    is_plain = cap is None and (window is None or row.longest <= window)
    same = query.shape[-1] == key.shape[-1] == value.shape[-1]
    is_dense = all(tensor.stride(-1) == 1 for tensor in (query, key, value))
    return is_plain and same and is_dense and query.device.type == "cpu"


def attend(
    query: Tensor, key: Tensor, value: Tensor, row: PackedRow, scale: float | None = None
) -> Tensor:
    """Attend within the texts of a packed row, each token to all of its text up to itself.

    Args:
        query: ``(1, heads, T, head size)``
        key: ``(1, key heads, T, head size)``; fewer heads than ``query`` are shared by several.
        value: Like ``key``.
        row: How the row is laid out. Where its prefixes do not ask, their results are 0.
        scale: Factor of the scores; one over the root of the head size where None.

    Returns:
        ``(1, T, heads, head size)``
    """
    result: Tensor = _RowAttention.apply(*autocasted(query, key, value), row, scale)
    return result


def autocasted(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bring all to autocast's type where it is on: rotated queries and keys may still be float32."""
    if not torch.is_autocast_enabled(query.device.type):
        return query, key, value
    dtype = torch.get_autocast_dtype(query.device.type)
    return query.to(dtype), key.to(dtype), value.to(dtype)


def part(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None, is_causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attend to some keys; without a gradient.

    Args:
        query: ``(A, B, n, size)``
        key: ``(A, B, keys, size)``
        value: Like ``key``.
        scale: Factor of the scores; one over the root of the head size where None.
        is_causal: Whether query j sees only the keys up to j.

    Returns:
        The result ``(A, B, n, size)`` and the log-sum-exp of the scores ``(A, B, n)``.
    """
    found: tuple[Tensor, Tensor] = _attend(query, key, value, 0.0, is_causal, scale=scale)
    return found


def join(result: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Join the attention of the same queries to two sets of keys; arguments and results of ``part``."""
    joint = torch.logaddexp(lse, other_lse)
    mixed = (lse - joint).exp()[..., None] * result + (other_lse - joint).exp()[..., None] * other
    return mixed.to(result.dtype), joint


class _RowAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, row: PackedRow, scale: float | None
    ) -> Tensor:
        _, heads, total, size = query.shape
        output = query.new_zeros(1, total, heads, size)
        q, k, v, out = _by_key_head(query, key, value, output.transpose(1, 2))
        lse_type = torch.float64 if query.dtype == torch.float64 else torch.float32
        lse = query.new_zeros(q.shape[:3], dtype=lse_type)
        for own, prefix in _parts(row):
            keys, values = _at(prefix or own, k, v)
            found = part(q[:, :, own], keys, values, scale, is_causal=prefix is None)
            if prefix is not None:
                found = join(out[:, :, own], lse[:, :, own], *found)
            out[:, :, own], lse[:, :, own] = found
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.row, ctx.scale = row, scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, lse = ctx.saved_tensors
        q, k, v, out, dout = _by_key_head(
            query, key, value, output.transpose(1, 2), grad.transpose(1, 2)
        )
        grads = [torch.zeros_like(tensor) for tensor in (query, key, value)]
        dq, dk, dv = _by_key_head(*grads)
        for own, prefix in _parts(ctx.row):
            keys = prefix or own
            parts = _attend_backward(
                *_at(own, dout, q), *_at(keys, k, v), *_at(own, out, lse), 0.0, prefix is None,
                scale=ctx.scale,
            )  # fmt: skip
            dq[:, :, own] += parts[0]
            dk[:, :1, keys] += parts[1].sum(1, keepdim=True)
            dv[:, :1, keys] += parts[2].sum(1, keepdim=True)
        return *grads, None, None


def _parts(row: PackedRow) -> Iterator[tuple[slice, slice | None]]:
    """Yield places that ask, and the prefix they ask, or None where they ask themselves.

    What asks a prefix has asked itself before.
    """
    start = 0
    for tree in row.trees:
        prefix = slice(start, start + tree.prefix)
        if tree.prefix and row.prefix_asks:
            yield prefix, None
        start = prefix.stop
        for size in tree.branches:
            if size:
                yield slice(start, start + size), None
            start += size
        if tree.prefix and start > prefix.stop:
            yield slice(prefix.stop, start), prefix


def _by_key_head(query: Tensor, key: Tensor, value: Tensor, *queries: Tensor) -> list[Tensor]:
    """View ``(1, heads, T, size)`` as ``(key heads, heads a key head, T, size)``, without copies.

    Keys and values stand once for all heads that share them.
    """
    shape = key.shape[1], query.shape[1] // key.shape[1]
    asking = [t[0].unflatten(0, shape) for t in (query, *queries)]
    shared = [t[0].unsqueeze(1).expand(-1, shape[1], -1, -1) for t in (key, value)]
    return [asking[0], *shared, *asking[1:]]


def _at(places: slice, *tensors: Tensor) -> list[Tensor]:
    return [tensor[:, :, places] for tensor in tensors]
