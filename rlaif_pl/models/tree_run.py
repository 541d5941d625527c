"""Run a stack over a prefix tree, level by level, through key/value caches.

Exact: a token sees the keys of its own row at their own positions, as in a plain forward over the whole
row. Index-based sliding windows would count padding inside a row, so no row may outgrow the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from rlaif_pl.models.encoding import pad_right
from rlaif_pl.models.stack import Stack


class Root(NamedTuple):
    """Keys and values of what many rows begin with, computed once, in a batch of 1."""

    ids: tuple[int, ...]
    cache: DynamicCache


class RowCache:
    """Keys and values of rows that are read piece by piece and may branch in between.

    Args:
        stack: All layers of a decoder.
        pad: Id that fills padded places.
        root: What all rows begin with; it is not changed.

    Attributes:
        is_real: True where a cached place holds a token of the row. ``(N, C)``
        lengths: Tokens of each row so far. ``(N,)``
    """

    def __init__(self, stack: Stack, pad: int, root: Root | None = None) -> None:
        self.stack = stack
        self.pad = pad
        self.device = next(stack.parameters()).device
        self.cache = stack.new_cache()
        self._root = root
        self.is_real = torch.ones(1, 0, dtype=torch.bool, device=self.device)
        self.lengths = torch.zeros(1, dtype=torch.int64, device=self.device)

    def advance(self, parents: Sequence[int], pieces: Sequence[Sequence[int]]) -> Tensor:
        """Go on with a piece of text in each row.

        Args:
            parents: Which row each new row continues: its place in the call before; 0 in the first.
            pieces: Tokens of each new row; a row without any is carried along, its states mean
                nothing. ``N`` rows

        Returns:
            Hidden states of the pieces. ``(N, longest piece, D)``
        """
        ids, is_real = (part.to(self.device) for part in pad_right(pieces, self.pad))
        return self.advance_ids(torch.tensor(parents, device=self.device), ids, is_real)

    def advance_ids(self, parents: Tensor, ids: Tensor, is_real: Tensor) -> Tensor:
        """As ``advance`` for tensors: ``(N,)``, ``(N, T)`` int64 and ``(N, T)`` bool."""
        self._branch(parents)
        self.is_real = torch.cat([self.is_real, is_real], 1)
        places = self.lengths[:, None] + is_real.long().cumsum(1) - 1
        self.lengths = self.lengths + is_real.sum(1)
        return self.stack(ids, self.is_real, places.clamp(min=0), self.cache)

    def _branch(self, parents: Tensor) -> None:
        """Give each new row its parent's keys and values."""
        if self._root is not None:
            self.cache = spread(self.stack, self._root, len(parents))
            length = len(self._root.ids)
            self.is_real = self.is_real.new_ones(len(parents), length)
            self.lengths = torch.full_like(parents, length)
            self._root = None
            return
        stays = len(parents) == len(self.lengths) and bool(
            (parents == torch.arange(len(parents), device=parents.device)).all()
        )
        if stays:
            return
        self.is_real, self.lengths = self.is_real[parents], self.lengths[parents]
        if self.cache.get_seq_length():
            self.cache.batch_select_indices(parents)


def spread(stack: Stack, root: Root, count: int) -> DynamicCache:
    """Return a cache of ``count`` rows that all begin with the root."""
    cache = stack.new_cache()
    layers: list[Any] = root.cache.layers  # one without keys is no cache of this kind: an error
    for place, layer in enumerate(layers):
        shape = (count, -1, -1, -1)
        cache.update(layer.keys.expand(shape), layer.values.expand(shape), place)
    return cache


def extend(stack: Stack, pad: int, root: Root | None, ids: Sequence[int]) -> Root:
    """Read on from a root (or from nothing) and return the longer root."""
    rows = RowCache(stack, pad, root)
    rows.advance([0], [ids])
    return Root((*(root.ids if root is not None else ()), *ids), rows.cache)
