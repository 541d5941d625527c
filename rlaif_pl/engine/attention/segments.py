"""Attention of a packed batch by blocks: each prefix's keys stand once, whoever asks them.

The softmax of a continuation's token runs over its prefix's keys and its own. The parts are computed
apart, each for all queries that share the keys, and joined by their log-sum-exp (the decomposition of
Hydragen, Juravsky et al. 2024, arXiv 2402.05099, which is for inference; the backward pass is exact
too, see ``leaf``). Laying the prefix's keys beside each continuation's own instead takes ``K (P + R)``
keys and values a prefix.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlaif_pl.engine.attention.leaf import Attended, leaf_for, merge_attention_states, no_keys
from rlaif_pl.engine.batch import AttentionBlock, PackedBatch

Keys = tuple[Tensor, Tensor]  # keys and values, each (m, key heads, size)


def is_supported(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    longest: int,
    window: int | None,
    softcap: float | None,
) -> bool:
    """Whether blocks compute a layer's attention: no cap, no window that cuts a text, one head size."""
    is_plain = softcap is None and (window is None or longest <= window)
    return is_plain and query.shape[-1] == key.shape[-1] == value.shape[-1]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    batch: PackedBatch,
    scale: float | None = None,
    root: Keys | None = None,
) -> Tensor:
    """Attend within the texts of a packed batch, each token to all of its text up to itself.

    Args:
        query: ``(T, heads, size)``
        key: ``(T, key heads, size)``; fewer heads than ``query`` are shared by several.
        value: Like ``key``.
        batch: Layout. Where prefix queries are skipped, their results are 0.
        scale: Factor of the scores; one over the root of the head size where None.
        root: Keys and values that all texts begin with; without a gradient.
    """
    query, key, value = (t if t.stride(-1) == 1 else t.contiguous() for t in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if not torch.is_grad_enabled() or not (
        query.requires_grad or key.requires_grad or value.requires_grad
    ):
        return _forward(query, key, value, batch, scale, root).output
    if root is not None:
        raise ValueError("expected a root in inference only, got a batch that needs gradients")
    result: Tensor = _SegmentAttention.apply(query, key, value, batch, scale)
    return result


def _blocks(batch: PackedBatch) -> Iterator[AttentionBlock]:
    first, *others = batch.blocks
    if not batch.skip_prefix_queries:
        yield first
    elif len(batch.levels) > 1:  # the first level does not ask itself
        yield batch.continuation_block
    yield from others


def _forward(
    query: Tensor, key: Tensor, value: Tensor, batch: PackedBatch, scale: float, root: Keys | None
) -> Attended:
    leaf = leaf_for(query)
    blocks = list(_blocks(batch))
    if len(blocks) == 1 and blocks[0].queries == slice(0, len(query)) and root is None:
        return leaf.forward((query, key, value), blocks[0], scale)
    output, lse = torch.zeros_like(query), no_keys(query)
    for number, block in enumerate(blocks):
        asking, asked = block.queries, block.keys
        found = leaf.forward((query[asking], key[asked], value[asked]), block, scale)
        if number:
            found = merge_attention_states(Attended(output[asking], lse[asking]), found)
        output[asking], lse[asking] = found
    if root is not None:
        if batch.root_block is None:
            raise ValueError("expected a batch with a root, got a root's keys and one without")
        found = leaf.forward((query, *root), batch.root_block, scale)
        return merge_attention_states(Attended(output, lse), found)
    return Attended(output, lse)


class _SegmentAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, batch: PackedBatch, scale: float
    ) -> Tensor:
        joint = _forward(query, key, value, batch, scale, None)
        ctx.save_for_backward(query, key, value, *joint)
        ctx.batch, ctx.scale = batch, scale
        return joint.output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, lse = ctx.saved_tensors
        leaf = leaf_for(query)
        grad = grad if grad.stride(-1) == 1 else grad.contiguous()
        grads = [torch.zeros_like(tensor) for tensor in (query, key, value)]
        for block in _blocks(ctx.batch):
            q, k = block.queries, block.keys
            joint = Attended(output[q], lse[q])
            qkv = query[q], key[k], value[k]
            parts = leaf.backward(grad[q], qkv, joint, block, ctx.scale)
            for whole, place, part in zip(grads, (q, k, k), parts, strict=True):
                whole[place] += part
        return *grads, None, None
