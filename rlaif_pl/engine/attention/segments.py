"""Attention of a packed batch, and of texts being written: by blocks, or text by text.

By blocks, a prefix's keys stand once: attention to it and to a text's own tokens is computed apart,
each for all queries that share the keys, and joined by log-sum-exp (Hydragen, Juravsky et al. 2024,
arXiv 2402.05099; the backward pass is exact too). Text by text: the definition, windows and soft caps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rlaif_pl.engine.attention.leaf import (
    QKV,
    Attended,
    Scoring,
    leaf_for,
    merge_attention_states,
    nothing,
)
from rlaif_pl.engine.batch import Keys, PackedBatch, Segment, pack_segments

PLAIN = Scoring()


def is_supported(qkv: QKV, longest: int, scoring: Scoring) -> bool:
    """Whether blocks compute a layer's attention: no cap, no window that cuts a text, one head size."""
    cuts = scoring.window is not None and longest > scoring.window
    return scoring.softcap is None and not cuts and len({t.shape[-1] for t in qkv}) == 1


def attend(
    qkv: QKV, batch: PackedBatch, scoring: Scoring = PLAIN, root: Keys | None = None
) -> Tensor:
    """Attend within the texts of a packed batch, each token to all of its text up to itself.

    Queries are ``(T, heads, size)``, keys and values ``(T, key heads, size)``. Results of tokens that
    do not ask are 0; the keys and values of a root get no gradient.
    """
    qkv = tuple([t if t.stride(-1) == 1 else t.contiguous() for t in qkv])  # type: ignore[assignment]
    scale = scoring.scale_for(qkv[0])
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in qkv):
        return _forward(qkv, batch, scale, root).output
    if root is not None:
        raise ValueError("expected a root in inference only, got a batch that needs gradients")
    result: Tensor = _SegmentAttention.apply(*qkv, batch, scale)
    return result


def _forward(qkv: QKV, batch: PackedBatch, scale: float, root: Keys | None = None) -> Attended:
    query, *own = qkv
    leaf, (output, lse) = leaf_for(query), nothing(query)
    for number, block in enumerate(batch.blocks):
        asking = block.queries
        k, v = root if root is not None and block is batch.blocks[-1] else own
        found = leaf.forward((query[asking], k[block.keys], v[block.keys]), block, scale)
        if number:
            found = merge_attention_states(Attended(output[asking], lse[asking]), found)
        if len(found.lse) == len(lse):
            output, lse = found
        else:
            output[asking], lse[asking] = found
    return Attended(output, lse)


class _SegmentAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        *qkv, ctx.batch, ctx.scale = given
        joint = _forward(qkv, ctx.batch, ctx.scale)  # type: ignore[arg-type]
        ctx.save_for_backward(*qkv, *joint)
        return joint.output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, lse = ctx.saved_tensors
        grad = grad if grad.stride(-1) == 1 else grad.contiguous()
        grads = [torch.zeros_like(tensor) for tensor in (query, key, value)]
        with torch.autocast(grad.device.type, enabled=False):
            for block in ctx.batch.blocks:
                q, k = block.queries, block.keys
                joint, qkv = Attended(output[q], lse[q]), (query[q], key[k], value[k])
                parts = leaf_for(query).backward(grad[q], qkv, joint, block, ctx.scale)
                for whole, place, part in zip(grads, (q, k, k), parts, strict=True):
                    whole[place] += part
        return *grads, None, None


def attend_by_text(
    qkv: QKV, batch: PackedBatch, scoring: Scoring = PLAIN, root: Keys | None = None
) -> Tensor:
    """Attend text by text; see ``attend``. Heads of values may have another size."""
    # Split, not sliced: the gradient of a slice is as long as the row, that of a split the piece.
    queries, keys, values = (t.split(batch.lengths) for t in qkv)
    begin = [] if root is None else [root]
    silent = sum(map(len, batch.levels[: batch.first]))
    results = []
    for n, ancestors in enumerate(batch.chains):
        own = len(queries[n])
        if own == 0 or n < silent:
            results.append(values[n].new_zeros(own, qkv[0].shape[1], qkv[2].shape[-1]))
            continue
        parts = [*begin, *((keys[m], values[m]) for m in (*ancestors, n))]
        k, v = (torch.cat(part) for part in zip(*parts, strict=True))
        mask = batch.attention_mask(len(k) - own, own, scoring.window)
        results.append(attend_masked((queries[n], k, v), mask, scoring))
    return torch.cat(results)


def attend_masked(qkv: QKV, mask: Tensor | None, scoring: Scoring) -> Tensor:
    """Attend in one text ``(n, heads, size)``; without a mask each token sees those before it."""
    q, k, v = (t.transpose(0, 1)[None] for t in qkv)
    share, softcap = q.shape[1] // k.shape[1], scoring.softcap
    # CUDA has no fused kernel for shared key heads with a mask or in float32: all scores would be held.
    fused = q.device.type != "cuda" or (mask is None and q.element_size() == 2)
    if share > 1 and not (fused and softcap is None):
        k, v = (t.repeat_interleave(share, 1) for t in (k, v))
    if softcap is None:
        shares = k.shape[1] < q.shape[1]
        found = F.scaled_dot_product_attention(
            q, k, v, mask, 0.0, mask is None, scale=scoring.scale, enable_gqa=shares
        )
        return found[0].transpose(0, 1)
    if mask is None:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    scores = q @ k.transpose(2, 3) * scoring.scale_for(q)
    scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1, dtype=torch.float32)
    return (weights.to(v.dtype) @ v)[0].transpose(0, 1)


class KVCache:
    """Keys and values of texts being written, in one stack of layers: what they begin with once.

    Prompts, or a prefix tree, stay as they were computed: ``prefilled`` by layer, each ``(T, key heads,
    size)``. Each text has room for its own ``length`` tokens since ``fork``, so that none makes a copy.
    """

    def __init__(self, batch: PackedBatch) -> None:
        self.batch = batch
        self.length = 0
        self.prefilled: dict[int, Keys] = {}
        self._own: dict[int, Keys] = {}  # by layer, each (n, capacity, key heads, size)

    def fork(self, leaves: Sequence[int], capacity: int) -> None:
        """Begin texts of at most ``capacity`` tokens after ``leaves`` of the last level, ascending."""
        self._leaves, self._capacity = list(leaves), capacity
        levels, root, device = self.batch.levels, self.batch.root, self.batch.positions.device
        step = [Segment(1, leaf) for leaf in self._leaves]
        # The batch with the next token of each text, which alone asks.
        self.step = pack_segments([*levels, step], device, root, first=len(levels))

    def append(self, layer: int, qkv: QKV, scoring: Scoring) -> Tensor:
        """Take in one token a text and attend from it; ``(n, heads, size)``, of keys ``key heads``."""
        query, key, value = qkv
        if layer not in self._own:
            k, v = (t.new_empty(len(t), self._capacity, *t.shape[1:]) for t in (key, value))
            self._own[layer] = k, v
        keys, values = (t[:, : self.length + 1] for t in self._own[layer])
        keys[:, -1], values[:, -1] = key, value
        # Without a prompt nothing was prefilled, and no block or chain names a piece.
        prompts = self.prefilled.get(layer, (key[:0], value[:0]))
        root = self.batch.root.keys.get(layer)
        longest = max(self.step.ends, default=0) + self.length
        if not is_supported(qkv, longest, scoring):
            pieces = [part.split(self.batch.lengths) for part in prompts]
            results = []
            for row, chain in enumerate(self.step.chains[-len(query) :]):
                parts = [] if root is None else [root]
                parts += [*((pieces[0][n], pieces[1][n]) for n in chain), (keys[row], values[row])]
                seen = slice(-(scoring.window or 0), None)
                k, v = (torch.cat(part)[seen] for part in zip(*parts, strict=True))
                mask = torch.ones(1, len(k), dtype=torch.bool, device=k.device)
                results.append(attend_masked((query[row : row + 1], k, v), mask, scoring))
            return torch.cat(results)
        leaf, scale = leaf_for(query), scoring.scale_for(query)
        joint = leaf.dense((query, keys, values), scale)
        for block in self.step.blocks[1:]:  # the first is a token's to itself
            k, v = root if root is not None and block is self.step.blocks[-1] else prompts
            found = leaf.forward((query, k[block.keys], v[block.keys]), block, scale)
            joint = merge_attention_states(joint, found)
        return joint.output

    def select_rows(self, rows: Sequence[int], index: Tensor) -> None:
        """Go on with these texts only, in ascending order; ``index`` is the same on the device."""
        for layer in self._own:  # one after the other: each frees what it was before the next
            keys, values = self._own[layer]
            self._own[layer] = keys[index], values[index]
        self.fork([self._leaves[row] for row in rows], self._capacity)
