"""Texts that share prefixes, laid out in one row without padding.

A batch is a forest of *segments* of tokens: a segment attends causally to itself and fully to its
ancestors. Segments lie level by level ``[all prefixes | all continuations | ...]``, those of one parent
side by side. So all queries of a level that share an ancestor are one run of the row, and attention
between two levels is one variable-length call (``AttentionBlock``) without copies.

Everything is planned on the host from lengths, and moved to the device in one copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rlaif_pl.engine.kv_cache import KVCache


class Segment(NamedTuple):
    """Tokens that belong together."""

    length: int  # how many, at least 0
    parent: int = 0  # number of the segment in the level above that it continues, if there is one


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
    keys: slice  # part of the row (or of a cache) that is asked
    query_runs: Runs  # how the queries are cut
    key_runs: Runs  # how the keys are cut, as many runs
    causal: bool  # query j of a run sees keys up to j only; the two parts are then the same
    groups: dict[int, list[Any]] = field(default_factory=dict, repr=False)  # see attention.padding

    def slices(self) -> Iterator[tuple[slice, slice]]:
        """Yield the runs that have queries, relative to ``queries`` and ``keys``."""
        queries = accumulate(self.query_runs.lengths, initial=0)
        keys = accumulate(self.key_runs.lengths, initial=0)
        for (a, b), (c, d) in zip(pairwise(queries), pairwise(keys), strict=True):
            if b > a:
                yield slice(a, b), slice(c, d)

    @property
    def has_empty_keys(self) -> bool:
        """Whether some queries have no keys."""
        pairs = zip(self.query_runs.lengths, self.key_runs.lengths, strict=True)
        return any(asking and not asked for asking, asked in pairs)


@dataclass(eq=False)
class PackedBatch:
    """Layout of ``T`` tokens; make one with ``pack_segments``."""

    levels: tuple[tuple[Segment, ...], ...]  # segments by depth
    positions: Tensor  # place of each token in its own text. `(T,)` int64
    # attention of all tokens: first each segment's to itself, then each level's to those above it
    blocks: tuple[AttentionBlock, ...]
    ends: list[int]  # tokens of each text that ends in the last level, the root included
    longest: int  # tokens of the longest text, the root included
    # keys and values of tokens that every text begins with and that are not in the row
    root: KVCache | None = None
    root_block: AttentionBlock | None = None  # all tokens ask all of the root's
    # nobody reads what the first level attends to, only its keys and values
    skip_prefix_queries: bool = False
    _masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def first_level(self) -> slice:
        """Place of the prefixes."""
        return slice(0, sum(segment.length for segment in self.levels[0]))

    @property
    def lengths(self) -> list[int]:
        """Tokens of every segment in the order of the row."""
        return [segment.length for level in self.levels for segment in level]

    @cached_property
    def continuation_block(self) -> AttentionBlock:
        """Attention of all tokens below the first level to their own segments."""
        edge, count, asking = self.first_level.stop, len(self.levels[0]), self.blocks[0].query_runs
        rest = slice(edge, len(self))
        runs = Runs(asking.lengths[count:], asking.cumulative[count:] - edge)
        return AttentionBlock(rest, rest, runs, runs, causal=True)

    def chains(self) -> list[list[int]]:
        """Return for every segment its ancestors that have tokens, topmost first, by their number."""
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

        None where nothing is before and each sees all before itself, else ``(own, before + own)`` bool;
        ``window`` is the number of latest tokens that a token sees, itself included, or None for all.
        """
        if window is not None and before + own <= window:
            window = None
        if window is None and not before:
            return None
        key = before, own, window
        if key not in self._masks:
            device = self.positions.device
            ahead = torch.arange(before + own, device=device)
            behind = torch.arange(before, before + own, device=device)[:, None] - ahead
            reach = behind >= 0
            self._masks[key] = reach if window is None else reach & (behind < window)
        return self._masks[key]


def pack_segments(
    levels: Sequence[Sequence[Segment]], device: torch.device | str, root: KVCache | None = None
) -> PackedBatch:
    """Plan a batch; ValueError for segments out of the order of their parents.

    ``levels`` are segments by depth, those of one parent side by side and in the parents' order;
    ``root`` has tokens that all texts begin with, computed before.
    """
    ends = [0 if root is None else root.batch.longest]
    longest, edges, positions = ends[0], [0], list[int]()
    for level in levels:
        parents = [segment.parent for segment in level]
        if parents != sorted(parents) or (parents and not 0 <= parents[-1] < len(ends)):
            raise ValueError(f"expected segments in the order of their parents, got {parents[:20]}")
        begins = [ends[parent] for parent in parents]
        ends = [begin + segment.length for begin, segment in zip(begins, level, strict=True)]
        positions += chain.from_iterable(map(range, begins, ends))
        longest = max(longest, *ends, 0)
        edges.append(len(positions))
    own, whole = tuple([s.length for level in levels for s in level]), slice(0, edges[-1])
    plans = [(whole, whole, own, own, True)]
    for depth, level in enumerate(levels):
        asking = slice(edges[depth], edges[depth + 1])
        lengths, parents = [each.length for each in level], [each.parent for each in level]
        plans += plan_ancestors(levels[:depth], lengths, parents, asking, asking.start)
    if root is not None:
        plans.append(plan_root(len(positions), root.batch.longest))
    blocks, moved = make_blocks(plans, device, positions)
    root_block = None if root is None else blocks.pop()
    kept = tuple(tuple(level) for level in levels)
    return PackedBatch(kept, moved, tuple(blocks), ends, longest, root, root_block)


# Of a block: queries, keys, tokens of each run of either, and whether it is causal.
Plan = tuple[slice, slice, tuple[int, ...], tuple[int, ...], bool]


def plan_ancestors(
    levels: Sequence[Sequence[Segment]],
    lengths: Sequence[int],
    ancestors: Sequence[int],
    asking: slice,
    edge: int,
) -> list[Plan]:
    """Plan the attention of segments, which lie in ``asking``, to the levels above, up to ``edge``."""
    plans: list[Plan] = []
    for above, level in enumerate(reversed(levels), 1):
        sizes = tuple([segment.length for segment in level])
        asked = slice(edge - sum(sizes), edge)
        edge = asked.start
        if asked.stop > asked.start and asking.stop > asking.start:
            counts = [0] * len(level)
            for length, ancestor in zip(lengths, ancestors, strict=True):
                counts[ancestor] += length
            plans.append((asking, asked, tuple(counts), sizes, False))
        if above < len(levels):
            ancestors = [level[ancestor].parent for ancestor in ancestors]
    return plans


def plan_root(queries: int, keys: int) -> Plan:
    """Plan the attention of all queries to all keys of a root."""
    return slice(0, queries), slice(0, keys), (queries,), (keys,), False


def make_blocks(
    plans: Sequence[Plan], device: torch.device | str, more: Sequence[int] = ()
) -> tuple[list[AttentionBlock], Tensor]:
    """Return planned blocks, and more integers that go to the device in the same copy."""
    runs = [list(accumulate(part, initial=0)) for plan in plans for part in plan[2:4]]
    moved, *cumulative = to_device([more, *runs], device)
    ints = iter(part.int() for part in cumulative)
    return [
        AttentionBlock(asking, asked, Runs(q, next(ints)), Runs(k, next(ints)), causal)
        for asking, asked, q, k, causal in plans
    ], moved


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
