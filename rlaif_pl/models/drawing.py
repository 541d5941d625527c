"""Draw tokens with noise that is keyed by what is drawn, so that batches and shards draw the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def noise_seed(*key: int | str) -> int:
    """Turn (seed, step, prompt, sample) into a generator seed that no sharding changes."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def uniforms(seeds: Sequence[int], length: int) -> Tensor:
    """One uniform a row and token, in [0, 1). ``(N, length)`` float64."""
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        rows.append(torch.rand(length, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_k: int = 0) -> Tensor:
    """Draw tokens by inverting the cumulative distribution.

    Args:
        logits: ``(N, V)``
        uniform: One number in [0, 1) a row. ``(N,)`` float64
        temperature: Divides the logits; 0 takes the most likely token.
        top_k: Only this many likeliest tokens can be drawn; 0 leaves all.

    Returns:
        Token ids ``(N,)``.
    """
    if temperature == 0:
        return logits.argmax(-1)
    if 0 < top_k < logits.shape[1]:
        values, places = logits.topk(top_k, -1)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, places, values)
    # In place, and not divided by the sum: over a vocabulary in float64 memory is what takes the time.
    weights = logits.to(torch.float64, copy=True).div_(temperature)
    cumulative = weights.sub_(weights.amax(-1, keepdim=True)).exp_().cumsum_(-1)
    point = uniform.to(logits.device)[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, point, right=True).squeeze(1)
    return drawn.clamp(max=logits.shape[1] - 1)
