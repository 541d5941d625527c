"""Attention of a packed batch text by text: the definition, and what computes windows and soft caps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rlaif_pl.engine.attention.segments import Keys
from rlaif_pl.engine.batch import PackedBatch


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    batch: PackedBatch,
    scale: float | None = None,
    root: Keys | None = None,
    *,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attend within the texts of a packed batch; arguments and result as of ``segments.attend``.

    Heads of ``value`` may have another size. A token sees the latest ``window`` tokens, itself
    included, or all; ``softcap`` makes scores ``cap * tanh(score / cap)``, as in Gemma 2.
    """
    # Split, not sliced: the gradient of a slice is as long as the row, that of a split the piece.
    queries, keys, values = (t.split(batch.lengths) for t in (query, key, value))
    begin = [] if root is None else [root]
    skipped = len(batch.levels[0]) if batch.skip_prefix_queries else 0
    results = []
    for n, ancestors in enumerate(batch.chains()):
        own = len(queries[n])
        if own == 0 or n < skipped:
            results.append(value.new_zeros(own, query.shape[1], value.shape[-1]))
            continue
        parts = [*begin, *((keys[m], values[m]) for m in (*ancestors, n))]
        k, v = (torch.cat(part) for part in zip(*parts, strict=True))
        mask = batch.attention_mask(len(k) - own, own, window)
        results.append(attend_masked(queries[n], k, v, mask, scale, softcap))
    return torch.cat(results)


def attend_masked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float | None,
    softcap: float | None,
) -> Tensor:
    """Attend in one text ``(n, heads, size)``; without a mask each token sees those before it."""
    share = query.shape[1] // key.shape[1]
    q, k, v = (t.transpose(0, 1)[None] for t in (query, key, value))
    # CUDA has no fused kernel for shared key heads with a mask or in float32: all scores would be held.
    fused = query.device.type != "cuda" or (mask is None and query.element_size() == 2)
    if share > 1 and not (fused and softcap is None):
        k, v = (t.repeat_interleave(share, 1) for t in (k, v))
    if softcap is None:
        found = F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=mask is None, scale=scale, enable_gqa=k.shape[1] < q.shape[1]
        )
        return found[0].transpose(0, 1)
    if mask is None:
        mask = torch.ones(len(query), len(key), dtype=torch.bool, device=query.device).tril()
    scores = q @ k.transpose(2, 3) * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1, dtype=torch.float32)
    return (weights.to(v.dtype) @ v)[0].transpose(0, 1)
