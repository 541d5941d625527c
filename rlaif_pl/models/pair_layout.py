"""Lay a batch out as one row without padding: each prompt, then its responses, end to end.

A packed row holds the real tokens of a whole batch. Every layer but attention works token by token and
needs no more; attention is told which tokens belong together (``pair_attention``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from rlaif_pl.models.encoding import PrefixBatch


class Tree(NamedTuple):
    """Lengths in tokens of one prefix and of the continuations that follow it in the row."""

    prefix: int
    branches: tuple[int, ...]


@dataclass(eq=False)
class PackedRow:
    """How ``T`` real tokens of a batch lie in one row.

    Attributes:
        trees: One a prefix, in order.
        positions: Place of each token in its own text: a continuation's count on from its prefix.
            ``(T,)`` int64
        sources: Place of each token among ``G * P`` padded prefix and then ``N * (1 + R)`` padded
            continuation tokens. ``(T,)`` int64
        prefix_shape: ``(G, P)``
        shape: ``(N, 1 + R)``
        windows: Sliding windows of the layers that have run on it; None for layers without.
        prefix_asks: False where nobody reads what the prefixes' tokens attend to, only their keys
            and values.
    """

    trees: tuple[Tree, ...]
    positions: Tensor
    sources: Tensor
    prefix_shape: tuple[int, int]
    shape: tuple[int, int]
    windows: set[int | None] = field(default_factory=set, repr=False)
    prefix_asks: bool = True
    _masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict, repr=False)

    @property
    def sizes(self) -> list[int]:
        """Length of each prefix and continuation in the order of the row."""
        return [size for tree in self.trees for size in (tree.prefix, *tree.branches)]

    @property
    def longest(self) -> int:
        """Tokens of the longest text: a prefix and one of its continuations."""
        return max(tree.prefix + max(tree.branches, default=0) for tree in self.trees)

    def gather(self, prefix: Tensor, continuation: Tensor) -> Tensor:
        """Take the real tokens out of padded ones.

        Args:
            prefix: Ids ``(G, P)`` or states ``(G, P, D)``.
            continuation: Ids ``(N, 1 + R)`` or states ``(N, 1 + R, D)``.

        Returns:
            Ids ``(T,)`` or states ``(T, D)``.
        """
        return torch.cat([prefix.flatten(0, 1), continuation.flatten(0, 1)])[self.sources]

    def scatter(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        """Put packed states ``(T, D)`` back; padded places hold 0.

        Returns:
            States of the prefixes ``(G, P, D)`` and of the continuations ``(N, 1 + R, D)``.
        """
        (groups, long), (rows, wide) = self.prefix_shape, self.shape
        padded = packed.new_zeros(groups * long + rows * wide, packed.shape[-1])
        padded = padded.index_copy(0, self.sources, packed)
        prefix, continuation = padded.split([groups * long, rows * wide])
        width = packed.shape[-1]
        return prefix.view(groups, long, width), continuation.view(rows, wide, width)

    def sees(self, prefix: int, own: int, window: int | None) -> Tensor | None:
        """Say which keys of ``[prefix, own]`` each of the ``own`` last tokens may look at.

        Args:
            prefix: Tokens before the ones that look.
            own: Tokens that look, each at the prefix, itself and what is before it.
            window: Number of latest tokens a token may see, itself included; None for all.

        Returns:
            True where it may, ``(own, prefix + own)`` bool, made once for the layers of a run; None
            where each token sees just all before it.
        """
        if window is not None and prefix + own <= window:
            window = None
        if window is None and not prefix:
            return None
        key = prefix, own, window
        if key not in self._masks:
            device = self.positions.device
            ahead = torch.arange(prefix + own, device=device)
            behind = torch.arange(prefix, prefix + own, device=device)[:, None] - ahead
            in_reach = behind >= 0
            self._masks[key] = in_reach if window is None else in_reach & (behind < window)
        return self._masks[key]


def pack(batch: PrefixBatch) -> PackedRow:
    """Lay out the real tokens of a batch, whose parts are padded on the right only."""
    (groups, long), (rows, wide) = batch.prefix_ids.shape, batch.ids.shape
    prefixes = batch.prefix_is_real.sum(1).tolist()
    lengths = batch.is_real.sum(1).tolist()
    repeat = rows // groups
    trees = tuple(
        Tree(prefix, tuple(lengths[g * repeat : (g + 1) * repeat]))
        for g, prefix in enumerate(prefixes)
    )
    places, positions = [], []
    for begin, source, size in _pieces(trees, long, wide):
        positions.append(torch.arange(begin, begin + size))
        places.append(torch.arange(source, source + size))
    device = batch.ids.device
    return PackedRow(
        trees,
        torch.cat(positions).to(device),
        torch.cat(places).to(device),
        (groups, long),
        (rows, wide),
    )


def pack_texts(prefix: int, branches: tuple[int, ...], device: torch.device) -> PackedRow:
    """Lay out one prefix with continuations of the given lengths in tokens."""
    longest, sizes = max(branches, default=0), torch.tensor(branches, dtype=torch.int64)
    reach = torch.arange(longest, device=device) < sizes.to(device)[:, None]
    real = torch.ones(1, prefix, dtype=torch.bool, device=device)
    return pack(PrefixBatch(real.long(), real, reach.long(), reach))


def _pieces(trees: tuple[Tree, ...], long: int, wide: int) -> Iterator[tuple[int, int, int]]:
    """Yield first position, place among the padded tokens and size of each part of the row."""
    starts = list(accumulate((len(tree.branches) for tree in trees), initial=0))
    for group, tree in enumerate(trees):
        yield 0, group * long, tree.prefix
        for branch, size in enumerate(tree.branches):
            yield tree.prefix, len(trees) * long + (starts[group] + branch) * wide, size
