"""Texts that share prefixes, laid out in one row without padding.

A batch is a packed prefix tree of *segments*, which attend causally to themselves and fully to their
ancestors, and lie level by level ``[all prefixes | all continuations | ...]``, those of one parent side
by side. So attention between two levels is one variable-length call without copies. All is planned on
the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, chain, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

Keys = tuple[Tensor, Tensor]  # keys and values, each (m, key heads, size)
# Of a block: queries, keys, tokens of each run of either, and whether it is causal.
Plan = tuple[slice, slice, tuple[int, ...], tuple[int, ...], bool]


class Segment(NamedTuple):
    """Tokens that belong together, after those of segment ``parent`` of the level above, if any."""

    length: int
    parent: int = 0


class Root(NamedTuple):
    """Tokens that all texts of a batch begin with, with their keys and values by layer."""

    ids: tuple[int, ...] = ()
    keys: Mapping[int, Keys] = {}


class Runs(NamedTuple):
    """Sequences that lie end to end."""

    lengths: tuple[int, ...]  # tokens of each
    cumulative: Tensor  # where each starts, and where the last ends. `(len(lengths) + 1,)` int32

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths, default=0)


@dataclass(frozen=True, eq=False)
class AttentionBlock:
    """Run i of the queries attends to run i of the keys."""

    queries: slice  # part of the row that asks
    keys: slice  # part of the row, of a cache or of a root that is asked
    query_runs: Runs
    key_runs: Runs  # as many as of queries
    causal: bool  # query j of a run sees keys up to j only; the two parts are then the same
    groups: dict[int, list[Any]] = field(default_factory=dict, repr=False)  # see attention.padding

    def slices(self) -> Iterator[tuple[slice, slice]]:
        """Yield the runs that have queries and keys, relative to ``queries`` and ``keys``."""
        runs = (accumulate(runs.lengths, initial=0) for runs in (self.query_runs, self.key_runs))
        for (a, b), (c, d) in zip(*map(pairwise, runs), strict=True):
            if b > a and d > c:
                yield slice(a, b), slice(c, d)

    @cached_property
    def has_empty_keys(self) -> bool:
        """Whether some queries have no keys."""
        pairs = zip(self.query_runs.lengths, self.key_runs.lengths, strict=True)
        return any(asking and not asked for asking, asked in pairs)


@dataclass(eq=False)
class PackedBatch:
    """Layout of ``T`` tokens; make one with ``pack_segments``."""

    levels: tuple[Sequence[Segment], ...]  # segments by depth
    first: int  # level from which on tokens ask; the attention of those above is 0
    positions: Tensor  # place of each token that asks in its own text. `(T,)` int64
    # each segment's attention to itself, then each level's to those above, then all to the root's keys
    blocks: list[AttentionBlock]
    ends: list[int]  # tokens of each text that ends in the last level, the root included
    longest: int  # tokens of the longest text, the root included
    root: Root
    windows: set[int | None] = field(default_factory=set)  # sliding windows that layers asked for
    _masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return sum(self.lengths)

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of every segment in the order of the row."""
        return [segment.length for level in self.levels for segment in level]

    @cached_property
    def continuations(self) -> PackedBatch:
        """The same, where nobody reads what the first level attends to, only its keys and values."""
        if len(self.levels) == 1:
            return replace(self, first=1, positions=self.positions[:0], blocks=[])
        return pack_segments(self.levels, self.positions.device, self.root, first=1)

    @cached_property
    def chains(self) -> list[list[int]]:
        """Of every segment its ancestors that have tokens, topmost first, by their number."""
        found: list[list[int]] = []
        above: list[list[int]] = [[]]
        for level in self.levels:
            below = []
            for segment in level:
                found.append(above[segment.parent])
                below.append([*found[-1], *([len(found) - 1] if segment.length else [])])
            above = below
        return found

    def attention_mask(self, before: int, own: int, window: int | None) -> Tensor | None:
        """Say which of ``before + own`` keys the last ``own`` tokens of a text may see.

        None where nothing is before and each sees all before itself, else ``(own, before + own)`` bool.
        """
        if window is not None and before + own <= window:
            window = None
        if window is None and not before:
            return None
        key = before, own, window
        if key not in self._masks:
            ahead = torch.arange(before + own, device=self.positions.device)
            behind = ahead[before:, None] - ahead
            self._masks[key] = (behind >= 0) & (behind < (window or before + own))
        return self._masks[key]


def pack_segments(
    levels: Sequence[Sequence[Segment]],
    device: torch.device | str,
    root: Root = Root(),  # noqa: B008 - immutable
    first: int = 0,
) -> PackedBatch:
    """Plan a batch; ValueError for segments out of the order of their parents.

    ``levels`` are segments by depth, those of one parent side by side; ``root`` is what all texts begin
    with, which is not in the row; from level ``first`` on tokens ask.
    """
    ends = [len(root.ids)]
    longest, edges, positions = ends[0], [0], list[int]()
    for depth, level in enumerate(levels):
        parents = [segment.parent for segment in level]
        if parents != sorted(parents) or (parents and not 0 <= parents[-1] < len(ends)):
            raise ValueError(f"expected segments in the order of their parents, got {parents[:20]}")
        begins = [ends[parent] for parent in parents]
        ends = [begin + segment.length for begin, segment in zip(begins, level, strict=True)]
        if depth >= first:
            positions += chain.from_iterable(map(range, begins, ends))
        longest = max(longest, *ends, 0)
        edges.append(edges[-1] + sum(ends) - sum(begins))
    parts = [slice(*edge) for edge in pairwise(edges)]
    asking = slice(edges[first], edges[-1])
    own = tuple([segment.length for level in levels[first:] for segment in level])
    plans = [(asking, asking, own, own, True)] if own else []
    for depth in range(first, len(levels)):
        plans += _plan_ancestors(levels, parts, depth)
    if root.ids:
        keys = slice(0, len(root.ids))
        plans.append((asking, keys, (asking.stop - asking.start,), (keys.stop,), False))
    runs = [list(accumulate(part, initial=0)) for plan in plans for part in plan[2:4]]
    moved, *cumulative = to_device([positions, *runs], device)
    ints = iter(part.int() for part in cumulative)
    blocks = [
        AttentionBlock(asks, asked, Runs(q, next(ints)), Runs(k, next(ints)), causal)
        for asks, asked, q, k, causal in plans
    ]
    return PackedBatch(tuple(levels), first, moved, blocks, ends, longest, root)


def _plan_ancestors(
    levels: Sequence[Sequence[Segment]], parts: Sequence[slice], depth: int
) -> Iterator[Plan]:
    """Plan the attention of a level, which lies in ``parts[depth]``, to the levels above it."""
    ancestors = [segment.parent for segment in levels[depth]]
    for above in range(depth - 1, -1, -1):
        counts = [0] * len(levels[above])
        for segment, ancestor in zip(levels[depth], ancestors, strict=True):
            counts[ancestor] += segment.length
        sizes = tuple([segment.length for segment in levels[above]])
        if any(counts) and any(sizes):
            yield parts[depth], parts[above], tuple(counts), sizes, False
        ancestors = [levels[above][ancestor].parent for ancestor in ancestors]


def to_device(lists: Sequence[Sequence[int]], device: torch.device | str) -> list[Tensor]:
    """Move lists of integers to a device in one copy, see ``send``; int64 tensors."""
    flat = torch.tensor(list(chain.from_iterable(lists)), dtype=torch.int64)
    return list(send(flat, device).split([len(part) for part in lists]))


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Move a tensor from the host to a device, on CUDA in a copy that nobody waits for.

    CUDA copies by itself only out of pinned memory; else the host waits until all work before is done.
    On MPS a copy that is not waited for reads memory that may be freed by then (pytorch #139550).
    """
    is_cuda = torch.device(device).type == "cuda"
    if is_cuda and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=is_cuda)
