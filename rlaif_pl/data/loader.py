"""Batches in an order that depends on seed and epoch only, the same after a kill as without one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple

import numpy as np
import torch

from rlaif_pl.types import Batch, Row


class Shard(NamedTuple):
    """One rank's part of one global batch."""

    rows: list[int]
    is_padding: list[bool]


@dataclass(slots=True)
class BatchOrder:
    """Which rows make up which batch of which rank.

    Ranks shuffle alike and take every ``num_ranks``-th row of each global batch; in the last, uneven
    one a rank that is a row short repeats a row.
    """

    num_rows: int  # rows in the data set
    batch_size: int  # rows a rank takes at a time
    rank: int = 0  # this process, from 0
    num_ranks: int = 1  # number of processes
    seed: int = 0  # seeds the order
    shuffle: bool = True  # whether to shuffle anew every epoch; otherwise file order
    drop_last: bool = False  # whether to leave out the last batch if it is not full
    # size of each row (words), to make batches of like lengths; None for none
    lengths: Sequence[int] | np.ndarray | None = None
    bucket_batches: int = 16  # batches within which rows are sorted by length, if lengths are given
    epoch: int = 0  # current epoch; set by `set_epoch`

    def __post_init__(self) -> None:
        for name in ("num_rows", "batch_size", "num_ranks", "bucket_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if not len(self):
            raise ValueError(
                f"expected at least {self.global_batch} rows for one full batch of {self.num_ranks} x "
                f"{self.batch_size}, got {self.num_rows}; make batch_size smaller or "
                "set drop_last to false"
            )

    @property
    def global_batch(self) -> int:
        """Rows all ranks take at a time."""
        return self.batch_size * self.num_ranks

    @property
    def sampler(self) -> BatchOrder:
        """Itself: a batch sampler names what Lightning is to tell the epoch."""
        return self

    def __len__(self) -> int:
        """Count the batches of an epoch, the same on every rank."""
        full, rest = divmod(self.num_rows, self.global_batch)
        return full + (rest > 0 and not self.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this at the start of each."""
        self.epoch = epoch

    def shards(self, start: int = 0) -> Iterator[Shard]:
        """Yield this rank's batches of the current epoch, from a number on."""
        rows, ends = self._global_batches()
        for number in range(start, len(ends)):
            batch = rows[ends[number - 1] if number else 0 : ends[number]].tolist()
            own = batch[self.rank :: self.num_ranks]
            missing = -(-len(batch) // self.num_ranks) - len(own)
            yield Shard(own + batch[:missing], [False] * len(own) + [True] * missing)

    def _global_batches(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of the epoch in order, and where each global batch ends in them."""
        size = self.global_batch
        count = min(self.num_rows, len(self) * size)
        ends = np.minimum(np.arange(1, len(self) + 1) * size, count)
        if not self.shuffle:
            return np.arange(count), ends
        # of run seed and epoch, so that neighbors share nothing
        digest = hashlib.blake2b(f"{self.seed}/{self.epoch}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        rows = torch.randperm(self.num_rows, generator=generator).numpy()[:count]
        if self.lengths is None:
            return rows, ends
        lengths = np.asarray(self.lengths)
        for first in range(0, len(ends), self.bucket_batches):
            window = slice(first * size, (first + self.bucket_batches) * size)
            part = rows[window][np.argsort(lengths[rows[window]], kind="stable")]
            cut = [part[n : n + size] for n in range(0, len(part), size)]
            order = torch.randperm(len(cut), generator=generator).tolist()
            rows[window] = np.concatenate([cut[n] for n in order])
            sizes = [len(cut[n]) for n in order]
            ends[first : first + len(cut)] = first * size + np.cumsum(sizes)
        return rows, ends


class BatchLoader(Generic[Row]):
    """Iterate over one rank's batches; stateful, so Lightning resumes it within an epoch.

    No ``DataLoader``, into which Lightning would put its own sampler.
    """

    def __init__(self, rows: Sequence[Row], order: BatchOrder) -> None:
        self.rows: Sequence[Row] = rows
        self.batch_sampler = order  # Lightning calls batch_sampler.sampler.set_epoch
        self._handed_out = (0, 0)
        self._resume: tuple[int, int] | None = None

    def __len__(self) -> int:
        """Count the batches of a whole epoch, also after resuming in the middle of one."""
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch[Row]]:
        """Yield the (remaining) batches of the current epoch."""
        # read at the first batch: Lightning makes a run's first iterator before it names the epoch
        epoch = self.batch_sampler.epoch
        start = self._resume[1] if self._resume is not None and self._resume[0] == epoch else 0
        self._resume = None
        for number, shard in enumerate(self.batch_sampler.shards(start), start=start + 1):
            self._handed_out = (epoch, number)
            yield self._batch(shard)

    def upcoming(self) -> Batch[Row]:
        """Return the batch after the last one handed out, at an epoch's end the next one's first."""
        epoch, number = self._handed_out
        if number >= len(self):
            epoch, number = epoch + 1, 0
        return self._batch(next(replace(self.batch_sampler, epoch=epoch).shards(number)))

    def _batch(self, shard: Shard) -> Batch[Row]:
        return Batch([self.rows[n] for n in shard.rows], shard.rows, shard.is_padding)

    def state_dict(self) -> dict[str, int]:
        """Return how far it got and over what, the same on every rank."""
        epoch, batches = self._handed_out if self._resume is None else self._resume
        return {"epoch": epoch, "batches": batches, "epoch_batches": len(self)} | self._data()

    def _data(self) -> dict[str, int]:
        order = self.batch_sampler
        return {"num_rows": order.num_rows, "global_batch": order.global_batch, "seed": order.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where a checkpoint left off; ValueError amid an epoch over other data."""
        now = self._data()
        # checkpoints of earlier versions do not say how many batches their epoch had
        whole = state.get("epoch_batches", -(-state["num_rows"] // state["global_batch"]))
        if not now.items() <= state.items() and 0 < state["batches"] < whole:
            raise ValueError(
                f"expected the data of the checkpoint, which was saved in the middle of an epoch "
                f"({state}), got {now}; resume with the same data, batch size times devices and "
                "seed, or start a new run from the checkpoint's weights"
            )
        self._resume = (state["epoch"], state["batches"])
