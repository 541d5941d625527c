"""Keys and values of texts that are still being written: a prompt's once, whatever its samples.

A cache with a row a text would hold each prompt K times, and every new token would copy all of it to
make room. Here prompts stay as they were computed, in one packed row, and each text has room for its
own tokens from the start. A token's attention is computed in both parts and joined by log-sum-exp, as
in ``prefix_attention``.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor, nn

from rlaif_pl.models import prefix_attention
from rlaif_pl.models.pair_layout import PackedRow

Pair = tuple[Tensor, Tensor]  # keys and values


class SharedCache:
    """Cache of one stack.

    Args:
        row: How the prompts lie in the row that is run first; none has a continuation.
        per_prompt: Texts a prompt, ``K``.
        room: Tokens that a text can get, at most.

    Attributes:
        suits: Whether every layer that read the prompts computes the attention that this cache does.
        length: Tokens that each text has got.
    """

    def __init__(self, row: PackedRow, per_prompt: int, room: int) -> None:
        self.row = row
        self.room = room
        self.suits = True
        self.length = 0
        self._prompt_of = torch.arange(len(row.trees)).repeat_interleave(per_prompt)
        self._texts = self._find_texts()
        # By layer and prompt, each (key heads, 1, P, size); by layer, each (n, key heads, room, size).
        self._prompts: dict[int, list[Pair]] = {}
        self._own: dict[int, Pair] = {}

    def read(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, cap: float | None
    ) -> None:
        """Keep a layer's keys and values of the prompts."""
        query, key, value = prefix_attention.autocasted(query, key, value)
        self.suits &= prefix_attention.suits(query, key, value, self.row, None, cap)
        parts = (t.transpose(0, 1).split(self.row.sizes, 2) for t in (key, value))
        self._prompts[_place(module)] = list(zip(*parts, strict=True))

    def write(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scale: float | None
    ) -> Tensor:
        """Take in one token a text and attend from it.

        Args:
            module: The calling attention module.
            query: ``(n, heads, 1, head size)``
            key: ``(n, key heads, 1, head size)``
            value: Like ``key``.
            scale: Factor of the scores.

        Returns:
            ``(n, 1, heads, head size)``
        """
        query, key, value = prefix_attention.autocasted(query, key, value)
        layer, count, share = _place(module), len(key), query.shape[1] // key.shape[1]
        if layer not in self._own:
            shape = count, key.shape[1], self.room, key.shape[-1]
            self._own[layer] = key.new_empty(shape), value.new_empty(shape)
        keys, values = self._own[layer]
        keys[:, :, self.length], values[:, :, self.length] = key[:, :, 0], value[:, :, 0]
        places = slice(self.length + 1)
        asks = query[:, :, 0].unflatten(1, (-1, share))  # (n, key heads, share, size)
        found, lse = prefix_attention.part(asks, keys[:, :, places], values[:, :, places], scale)
        by_head = asks.transpose(0, 1).flatten(1, 2)  # (key heads, n * share, size)
        seen, size = torch.zeros_like(by_head), lse.new_full(by_head.shape[:2], -torch.inf)
        for prompt, texts in self._texts:
            k, v = self._prompts[layer][prompt]
            at = slice(texts.start * share, texts.stop * share)
            result, scores = prefix_attention.part(by_head[:, None, at], k, v, scale)
            seen[:, at], size[:, at] = result[:, 0], scores[:, 0]
        others = (t.unflatten(1, (count, share)).transpose(0, 1) for t in (seen, size))
        joined, _ = prefix_attention.join(found, lse, *others)
        return joined.flatten(1, 2)[:, None]

    def keep(self, rows: Tensor) -> None:
        """Go on with these texts only."""
        self._prompt_of = self._prompt_of[rows.cpu()]
        self._texts = self._find_texts()
        self._own = {n: (k[rows], v[rows]) for n, (k, v) in self._own.items()}

    def _find_texts(self) -> list[tuple[int, slice]]:
        """List the prompts that hold more than the token their texts begin with, and their texts."""
        counts = torch.bincount(self._prompt_of, minlength=len(self.row.trees)).tolist()
        ends = list(accumulate(counts))
        return [
            (prompt, slice(end - count, end))
            for prompt, (end, count) in enumerate(zip(ends, counts, strict=True))
            if count and self.row.trees[prompt].prefix
        ]


def _place(module: nn.Module) -> int:
    layer: int = module.layer_idx  # type: ignore[assignment]
    return layer
