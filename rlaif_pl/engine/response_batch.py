"""Prompts with their responses as padded tensors, and how they lie in one packed row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from rlaif_pl.engine.batch import PackedBatch, Segment, pack_segments, send, to_device


class HiddenStates(NamedTuple):
    """Hidden states of a ``ResponseBatch`` after some layers; 0 or meaningless at padding."""

    prefix: Tensor  # (G, P, D)
    continuation: Tensor  # (N, 1 + R, D)

    def part(self, groups: slice) -> HiddenStates:
        """Return the states of some of the prefixes and their continuations."""
        repeat = len(self.continuation) // max(len(self.prefix), 1)
        rows = slice(groups.start * repeat, groups.stop * repeat)
        return HiddenStates(self.prefix[groups], self.continuation[rows])


class PackedResponses(NamedTuple):
    """A ``ResponseBatch`` without padding.

    Attributes:
        batch: Prefixes, then continuations.
        sources: Place of each token among ``G * P`` padded prefix and then ``N * (1 + R)`` padded
            continuation tokens. ``(T,)`` int64
    """

    batch: PackedBatch
    sources: Tensor

    def gather(self, prefix: Tensor, continuation: Tensor) -> Tensor:
        """Take the tokens out of padded ones.

        Args:
            prefix: Ids ``(G, P)`` or states ``(G, P, D)``.
            continuation: Ids ``(N, 1 + R)`` or states ``(N, 1 + R, D)``.

        Returns:
            Ids ``(T,)`` or states ``(T, D)``.
        """
        return torch.cat([prefix.flatten(0, 1), continuation.flatten(0, 1)])[self.sources]


@dataclass(frozen=True, eq=False)
class ResponseBatch:
    """``G`` prefixes, each with the same number of continuations, ``N = G * K`` in all.

    The last prompt token opens the continuation, so a continuation's hidden state at column j is the
    state before its response token j, and column ``length`` is the state at its last token.
    Both parts are padded on the right. Lengths are known on the host, so nothing waits for a device.

    Attributes:
        prefix_ids: Prompts without their last token. ``(G, P)`` int64
        ids: Last prompt token, then the response. ``(N, 1 + R)`` int64
        prefix_lengths: Tokens of each prefix.
        continuation_lengths: Tokens of each continuation.
    """

    prefix_ids: Tensor
    ids: Tensor
    prefix_lengths: tuple[int, ...]
    continuation_lengths: tuple[int, ...]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.ids.device

    @property
    def per_prefix(self) -> int:
        """Continuations of each prefix, ``K``."""
        return len(self.continuation_lengths) // max(len(self.prefix_lengths), 1)

    @cached_property
    def prefix_is_real(self) -> Tensor:
        """True at tokens of prefixes. ``(G, P)``."""
        return _is_real(self.prefix_lengths, self.prefix_ids)

    @cached_property
    def is_real(self) -> Tensor:
        """True at tokens of continuations. ``(N, 1 + R)``."""
        return _is_real(self.continuation_lengths, self.ids)

    @property
    def response_ids(self) -> Tensor:
        """Response tokens ``(N, R)``."""
        return self.ids[:, 1:]

    @property
    def is_response(self) -> Tensor:
        """True at response tokens ``(N, R)``."""
        return self.is_real[:, 1:]

    @cached_property
    def lengths(self) -> Tensor:
        """Response tokens a row ``(N,)``."""
        (moved,) = to_device([[max(n - 1, 0) for n in self.continuation_lengths]], self.device)
        return moved

    @cached_property
    def response_places(self) -> Tensor:
        """Place of each response token among ``N * R`` padded ones. ``(tokens,)`` int64."""
        width = self.ids.shape[1] - 1
        places: list[int] = []
        for row, length in enumerate(self.continuation_lengths):
            places += range(row * width, row * width + max(length - 1, 0))
        (moved,) = to_device([places], self.device)
        return moved

    @cached_property
    def last_places(self) -> Tensor:
        """Place of each continuation's last token among ``N * (1 + R)`` padded ones. ``(N,)`` int64."""
        width = self.ids.shape[1]
        lengths = enumerate(self.continuation_lengths)
        (moved,) = to_device([[row * width + max(n - 1, 0) for row, n in lengths]], self.device)
        return moved

    def packed_places(self, firsts: Sequence[int]) -> Tensor:
        """Places in the packed row of each continuation's tokens from a column on; int64.

        Args:
            firsts: The first column of each continuation.
        """
        places: list[int] = []
        start = sum(self.prefix_lengths)
        for first, length in zip(firsts, self.continuation_lengths, strict=True):
            places += range(start + first, start + length)
            start += length
        (moved,) = to_device([places], self.device)
        return moved

    @cached_property
    def inputs(self) -> ResponseBatch:
        """The texts without the last token of each, which nothing is predicted from. ``(N, R)``.

        Column j of its continuations is the token before response token j.
        """
        lengths = tuple(max(n - 1, 0) for n in self.continuation_lengths)
        return ResponseBatch(self.prefix_ids, self.ids[:, :-1], self.prefix_lengths, lengths)

    @cached_property
    def packed(self) -> PackedResponses:
        """Layout without padding."""
        (groups, long), wide = self.prefix_ids.shape, self.ids.shape[1]
        repeat = self.per_prefix
        levels = [
            [Segment(length) for length in self.prefix_lengths],
            [Segment(length, n // repeat) for n, length in enumerate(self.continuation_lengths)],
        ]
        sources: list[int] = []
        for row, length in enumerate(self.prefix_lengths):
            sources += range(row * long, row * long + length)
        for row, length in enumerate(self.continuation_lengths):
            start = groups * long + row * wide
            sources += range(start, start + length)
        (moved,) = to_device([sources], self.device)
        return PackedResponses(pack_segments(levels, self.device), moved)

    def scatter(self, packed: Tensor) -> HiddenStates:
        """Put packed states ``(T, D)`` back; padded places hold 0."""
        (groups, long), (rows, wide) = self.prefix_ids.shape, self.ids.shape
        width = packed.shape[-1]
        padded = packed.new_zeros(groups * long + rows * wide, width)
        padded = padded.index_copy(0, self.packed.sources, packed)
        prefix, continuation = padded.split([groups * long, rows * wide])
        return HiddenStates(prefix.view(groups, long, width), continuation.view(rows, wide, width))

    def part(self, groups: slice) -> ResponseBatch:
        """Return some of the prefixes with their continuations, padded as wide as all of them."""
        rows = slice(groups.start * self.per_prefix, groups.stop * self.per_prefix)
        return ResponseBatch(
            self.prefix_ids[groups],
            self.ids[rows],
            self.prefix_lengths[groups],
            self.continuation_lengths[rows],
        )

    def cut(self, most_tokens: int | None) -> list[slice]:
        """Cut the prefixes, in order, into runs whose texts have at most so many tokens.

        Args:
            most_tokens: Tokens of a run, prefixes once, at least 1; a prefix with more is a run of its
                own. None leaves all in one.
        """
        groups, repeat = len(self.prefix_lengths), self.per_prefix
        runs: list[slice] = []
        start, tokens = 0, 0
        for n, prefix in enumerate(self.prefix_lengths):
            own = prefix + sum(self.continuation_lengths[n * repeat : (n + 1) * repeat])
            if most_tokens is not None and n > start and tokens + own > most_tokens:
                runs.append(slice(start, n))
                start, tokens = n, 0
            tokens += own
        return [*runs, slice(start, groups)]

    def to(self, device: torch.device | str) -> ResponseBatch:
        """Move every tensor to a device."""
        return ResponseBatch(
            send(self.prefix_ids, device),
            send(self.ids, device),
            self.prefix_lengths,
            self.continuation_lengths,
        )


def pad_right(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Stack rows of token ids.

    Returns:
        ``(ids, is_real)``, each ``(N, longest row)``; padded places hold ``pad`` and False.
    """
    width = max((len(row) for row in rows), default=0)
    ids = torch.tensor(
        [[*row, *[pad] * (width - len(row))] for row in rows], dtype=torch.int64
    ).view(len(rows), width)
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    return ids, torch.arange(width) < lengths[:, None]


def assemble(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    pad: int,
    device: torch.device | str = "cpu",
) -> ResponseBatch:
    """Build a batch from token rows; response ``n`` belongs to prompt ``n // K``.

    Raises:
        ValueError: There is no prompt, or not the same number of responses for each.
    """
    if not prompts or len(responses) % len(prompts):
        raise ValueError(
            f"expected the same number of responses for each of {len(prompts)} prompts, "
            f"got {len(responses)} responses"
        )
    per_prefix = len(responses) // len(prompts)
    prefixes = [row[:-1] for row in prompts]
    rows = [[prompts[n // per_prefix][-1], *row] for n, row in enumerate(responses)]
    batch = ResponseBatch(
        pad_right(prefixes, pad)[0],
        pad_right(rows, pad)[0],
        tuple(map(len, prefixes)),
        tuple(map(len, rows)),
    )
    return batch.to(device)


def _is_real(lengths: Sequence[int], ids: Tensor) -> Tensor:
    (moved,) = to_device([lengths], ids.device)
    return torch.arange(ids.shape[1], device=ids.device) < moved[:, None]
