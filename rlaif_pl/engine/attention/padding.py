"""Runs of queries and keys as rows of a padded batch, so that few products serve many runs.

One product a run would be launches that take a GPU longer than what they compute. Runs of like lengths
share a group; padding is masked, and at most doubles the work where that is not small anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from rlaif_pl.engine.batch import AttentionBlock, to_device

MOST_SCORES = 1 << 25  # scores of a group: 128 MB of float32, of which a backward pass holds four
FEW_SCORES = 1 << 22  # up to here another launch costs a GPU more than padding


class PaddedRun(NamedTuple):
    """Places in a block of one run, or of some of its queries where all would take too many scores."""

    queries: range
    keys: range
    before: int  # queries of the run that lie in front of these


class Places(NamedTuple):
    """Where the tokens of a group lie."""

    taken: Tensor  # token of each place, any one where there is padding. `(runs * longest,)`
    put: Tensor  # the same, padding behind the last token
    is_real: Tensor  # `(runs, longest)`

    def gather(self, t: Tensor, key_heads: int, dtype: torch.dtype) -> Tensor:
        """Take ``(T, heads, size)`` as ``(runs, key heads, heads a key head * longest, size)``."""
        rows = t.index_select(0, self.taken).view(*self.is_real.shape, key_heads, -1, t.shape[-1])
        return rows.permute(0, 2, 3, 1, 4).flatten(2, 3).to(dtype)

    def scatter(self, found: Tensor, target: Tensor, *, add: bool = False) -> None:
        """Undo ``gather``, or ``add`` what several groups have; padding goes to the last place."""
        rows = found.unflatten(2, (-1, self.is_real.shape[1])).permute(0, 3, 1, 2, 4)
        rows = rows.reshape(len(self.put), *target.shape[1:]).to(target.dtype)
        (target.index_add_ if add else target.index_copy_)(0, self.put, rows)


class Group(NamedTuple):
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
        return ~(seen.tril(self.before) if self.causal else seen)[:, None, None]


def groups_of(block: AttentionBlock, heads: int, device: torch.device) -> list[Group]:
    """Return the groups of a block, planned once; runs without queries or keys are in none."""
    if heads not in block.groups:
        block.groups[heads] = [
            Group(
                _places([run.queries for run in runs], sum(block.query_runs.lengths), device),
                _places([run.keys for run in runs], sum(block.key_runs.lengths), device),
                runs[0].before,
                block.causal,
                pads=len({*map(_size, runs)}) > 1,
            )
            for runs in _plan(block, heads)
        ]
    return block.groups[heads]


def _places(rows: list[range], total: int, device: torch.device) -> Places:
    longest = max(map(len, rows))
    padded = [place for row in rows for place in (*row, *[total] * (longest - len(row)))]
    (put,) = to_device([padded], device)
    return Places(put.clamp(max=total - 1), put, (put < total).view(len(rows), -1))


def _size(run: PaddedRun) -> tuple[int, int]:
    return len(run.keys), len(run.queries)


def _plan(block: AttentionBlock, heads: int) -> Iterator[list[PaddedRun]]:
    """Sort the runs by length and cut them into groups."""
    group: list[PaddedRun] = []
    most = real = 0
    for run in sorted(_runs(block, heads), key=lambda run: (run.before, *_size(run))):
        keys, queries = _size(run)
        most, real = max(most, queries), real + queries * keys
        padded = (len(group) + 1) * most * keys  # sorted: no run before has more keys
        fits = padded * heads <= min(MOST_SCORES, max(FEW_SCORES, 2 * real * heads))
        if group and not (fits and run.before == group[0].before == 0):
            yield group
            group, most, real = [], queries, queries * keys
        group.append(run)
    if group:
        yield group


def _runs(block: AttentionBlock, heads: int) -> Iterator[PaddedRun]:
    """Yield the runs that have queries and keys, cut where all scores of one would be too many."""
    for asking, asked in block.slices():
        keys = range(asked.start, asked.stop)
        most = max(1, MOST_SCORES // (heads * len(keys)))
        for start in range(asking.start, asking.stop, most):
            stop, before = min(start + most, asking.stop), start - asking.start
            seen = keys[: stop - asking.start] if block.causal else keys
            yield PaddedRun(range(start, stop), seen, before)
