"""Runs of queries and keys as rows of a padded batch, so that few products serve many runs.

One product a run would be a handful of launches a run, layer and token: on a GPU they take longer than
what they compute. Runs of like lengths share a group here; padding is masked, and at most doubles the
work where that is not small anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from rlaif_pl.engine.batch import AttentionBlock, send

MOST_SCORES = 1 << 25  # scores of a group: 128 MB of float32, of which a backward pass holds four
FEW_SCORES = 1 << 22  # up to here another launch costs a GPU more than padding


class QueryRun(NamedTuple):
    """Queries of one run, or some of them where all would take too many scores."""

    start: int  # of the queries in the block
    num_queries: int
    key_start: int  # of the keys in the block
    num_keys: int
    before: int = 0  # queries of the run that lie in front of these


class Places(NamedTuple):
    """Where the tokens of a group lie."""

    shape: tuple[int, int]  # runs, and tokens of the longest
    taken: Tensor  # token of each place, any one where there is padding. `(runs * longest,)`
    put: Tensor  # the same, padding behind the last token
    is_real: Tensor  # `(runs, longest)`


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that are computed at once."""

    queries: Places
    keys: Places
    before: int
    causal: bool
    pads: bool  # whether runs are of different lengths

    def hidden(self) -> Tensor | None:
        """Return True where a query does not see a key ``(runs, 1, 1, n, m)``; None if it sees all."""
        if not self.pads and not self.causal:
            return None
        seen = self.queries.is_real[:, :, None] & self.keys.is_real[:, None, :]
        if self.causal:
            n, m = seen.shape[1:]
            ones = torch.ones(n, m, dtype=torch.bool, device=seen.device)
            seen = seen & ones.tril(self.before)
        return ~seen[:, None, None]


def groups_of(block: AttentionBlock, heads: int, device: torch.device) -> list[Group]:
    """Return the groups of a block, planned once; runs without queries or keys are in none."""
    if heads not in block.groups:
        planned = list(_plan(block, heads))
        numbers = [list(part) for runs in planned for part in list(zip(*runs, strict=True))[:4]]
        flat = send(torch.tensor([n for part in numbers for n in part], dtype=torch.int64), device)
        parts = iter(flat.split([len(part) for part in numbers]))
        totals = sum(block.query_runs.lengths), sum(block.key_runs.lengths)
        block.groups[heads] = [
            _group(runs, [next(parts) for _ in range(4)], totals, block.causal) for runs in planned
        ]
    found: list[Group] = block.groups[heads]
    return found


def _plan(block: AttentionBlock, heads: int) -> Iterator[list[QueryRun]]:
    """Sort the runs by length and cut them into groups."""
    group: list[QueryRun] = []
    most = real = 0
    for run in sorted(
        _runs(block, heads), key=lambda run: (run.before, run.num_keys, run.num_queries)
    ):
        most, real = max(most, run.num_queries), real + run.num_queries * run.num_keys
        padded = (len(group) + 1) * most * run.num_keys  # sorted: no run before has more keys
        fits = padded * heads <= MOST_SCORES and (
            padded * heads <= FEW_SCORES or padded <= 2 * real
        )
        if group and not (fits and run.before == group[0].before == 0):
            yield group
            group, most, real = [], run.num_queries, run.num_queries * run.num_keys
        group.append(run)
    if group:
        yield group


def _runs(block: AttentionBlock, heads: int) -> Iterator[QueryRun]:
    """Yield the runs that have queries and keys, cut where all scores of one would be too many."""
    asking, asked = block.query_runs.lengths, block.key_runs.lengths
    starts = accumulate(asking, initial=0), accumulate(asked, initial=0)
    for n, m, start, key_start in zip(asking, asked, *starts, strict=False):
        most = max(1, MOST_SCORES // max(1, heads * m))
        for first in range(0, n if m else 0, most):
            count = min(most, n - first)
            seen = min(m, first + count) if block.causal else m
            yield QueryRun(start + first, count, key_start, seen, first)


def _group(
    runs: list[QueryRun], numbers: list[Tensor], totals: tuple[int, int], causal: bool
) -> Group:
    starts, counts, key_starts, key_counts = numbers
    sizes = {(run.num_queries, run.num_keys) for run in runs}
    most, most_keys = max(run.num_queries for run in runs), max(run.num_keys for run in runs)
    queries = _places(starts, counts, most, totals[0])
    keys = _places(key_starts, key_counts, most_keys, totals[1])
    return Group(queries, keys, runs[0].before, causal, len(sizes) > 1)


def _places(starts: Tensor, counts: Tensor, longest: int, total: int) -> Places:
    steps = torch.arange(longest, device=starts.device)
    is_real = steps < counts[:, None]
    put = torch.where(is_real, starts[:, None] + steps, total).flatten()
    return Places((len(starts), longest), put.clamp(max=total - 1), put, is_real)
