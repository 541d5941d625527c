"""Prompts with their responses, laid out in one packed row, and a runner's states of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, chain
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlaif_pl.engine.batch import PackedBatch, Segment, pack_segments, to_device

if TYPE_CHECKING:
    from rlaif_pl.engine.runner import DecoderRunner

Rows = tuple[Sequence[int], ...]


class TrunkStates(NamedTuple):
    """States of texts that may go on longer than those of a batch; see ``ResponseBatch.gather``."""

    states: Tensor  # (M, D), prefixes first, as they lie in a batch
    starts: Sequence[int]  # place of each continuation's first state


@dataclass(frozen=True, eq=False)
class ResponseBatch:
    """``G`` prompts, each with the same number of responses, ``N = G * K`` in all.

    The last prompt token opens the continuation, so a continuation's state at column j is the state
    before its response token j. Tokens and states lie packed, ``[all prefixes | all continuations]``;
    numbers of response tokens as ``(N, R)``. Lengths are known on the host: nothing waits for a device.
    """

    prefixes: Rows  # prompts without their last token, `G` rows of token ids
    continuations: Rows  # last prompt token, then the response, `N` rows
    width: int  # columns of `(N, R)`, at least the longest response
    pad: int  # id that fills padded places of `response_ids`
    device: torch.device  # where tensors go

    @property
    def prefix_lengths(self) -> tuple[int, ...]:
        """Tokens of each prefix."""
        return tuple(map(len, self.prefixes))

    @property
    def continuation_lengths(self) -> tuple[int, ...]:
        """Tokens of each continuation."""
        return tuple(map(len, self.continuations))

    @property
    def per_prefix(self) -> int:
        """Continuations of each prefix, ``K``."""
        return len(self.continuations) // max(len(self.prefixes), 1)

    @cached_property
    def starts(self) -> list[int]:
        """Place of each continuation in the packed row, and where the last ends."""
        return list(accumulate(self.continuation_lengths, initial=sum(self.prefix_lengths)))

    @cached_property
    def layout(self) -> PackedBatch:
        """How the packed row is cut."""
        repeat = self.per_prefix
        own = [Segment(length, n // repeat) for n, length in enumerate(self.continuation_lengths)]
        return pack_segments([[Segment(n) for n in self.prefix_lengths], own], self.device)

    @cached_property
    def packed_ids(self) -> Tensor:
        """Token ids in one row. ``(T,)`` int64."""
        return self._moved((*self.prefixes, *self.continuations))

    @cached_property
    def response_ids(self) -> Tensor:
        """Response tokens ``(N, R)``."""
        rows = [[*row[1:], *[self.pad] * (self.width + 1 - len(row))] for row in self.continuations]
        return self._moved(rows).view(len(rows), self.width)

    @cached_property
    def lengths(self) -> Tensor:
        """Response tokens a row ``(N,)``."""
        return self._moved([[length - 1 for length in self.continuation_lengths]])

    @cached_property
    def is_response(self) -> Tensor:
        """True at response tokens ``(N, R)``."""
        return torch.arange(self.width, device=self.device) < self.lengths[:, None]

    @cached_property
    def response_places(self) -> Tensor:
        """Place of each response token among ``N * R``. ``(tokens,)`` int64."""
        starts = range(0, self.width * len(self.continuations), self.width or 1)
        rows = zip(starts, self.continuations, strict=False)
        return self._moved(range(start, start + len(row) - 1) for start, row in rows)

    def spread(self, values: Tensor) -> Tensor:
        """Put what belongs to each response token at its place, 0 at padded ones. ``(N, R, ...)``."""
        shape = (len(self.continuations), self.width)
        empty = values.new_zeros(shape[0] * shape[1], *values.shape[1:])
        return empty.index_copy(0, self.response_places, values).unflatten(0, shape)

    def places(self, firsts: Sequence[int]) -> Tensor:
        """Places in the packed row of each continuation's tokens from a column on; int64."""
        rows = zip(self.starts, firsts, self.continuations, strict=False)
        return self._moved(range(start + first, start + len(row)) for start, first, row in rows)

    @cached_property
    def inputs(self) -> ResponseBatch:
        """The texts without their last tokens: token j of continuations is before response token j."""
        return replace(self, continuations=tuple(row[:-1] for row in self.continuations))

    def gather(self, longer: TrunkStates) -> Tensor:
        """Take this batch's states out of those of texts that go on longer. ``(T, D)``."""
        rows = zip(longer.starts, self.continuations, strict=False)
        own = [range(start, start + len(row)) for start, row in rows]
        return longer.states.index_select(0, self._moved([range(self.starts[0]), *own]))

    def _moved(self, rows: Iterable[Iterable[int]]) -> Tensor:
        (moved,) = to_device([list(chain.from_iterable(rows))], self.device)
        return moved

    def _rows(self, groups: slice) -> slice:
        return slice(groups.start * self.per_prefix, groups.stop * self.per_prefix)

    def packed_slices(self, groups: slice) -> tuple[slice, slice]:
        """Return where the prefixes and continuations of some prompts lie in the packed row."""
        edges, rows = list(accumulate(self.prefix_lengths, initial=0)), self._rows(groups)
        prefixes = slice(edges[groups.start], edges[groups.stop])
        return prefixes, slice(self.starts[rows.start], self.starts[rows.stop])

    def states_of(self, groups: slice, states: Tensor | None) -> Tensor | None:
        """Return the states of ``part(groups)`` out of those of this batch ``(T, D)``."""
        if states is None:
            return None
        return torch.cat([states[part] for part in self.packed_slices(groups)])

    def part(self, groups: slice) -> ResponseBatch:
        """Return some of the prompts with their responses, with as many columns as all of them."""
        own = self.continuations[self._rows(groups)]
        return replace(self, prefixes=self.prefixes[groups], continuations=own)

    def cut(self, most_tokens: int | None) -> list[slice]:
        """Cut the prompts, in order, into runs of at most so many tokens, or one prompt."""
        runs: list[slice] = []
        start, tokens = 0, 0
        for n, prefix in enumerate(self.prefix_lengths):
            own = prefix + sum(map(len, self.continuations[self._rows(slice(n, n + 1))]))
            if most_tokens is not None and n > start and tokens + own > most_tokens:
                runs.append(slice(start, n))
                start, tokens = n, 0
            tokens += own
        return [*runs, slice(start, len(self.prefixes))]

    def to(self, device: torch.device | str) -> ResponseBatch:
        """Return the same batch for another device."""
        return replace(self, device=torch.device(device))


def pad_right(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Stack rows of token ids as ``(ids, is_real)``, each ``(N, longest row)``."""
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    is_real = torch.arange(max(map(len, rows), default=0)) < lengths[:, None]
    ids = torch.full(is_real.shape, pad)
    ids[is_real] = torch.tensor(list(chain.from_iterable(rows)), dtype=torch.int64)
    return ids, is_real


def assemble(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    pad: int,
    device: torch.device | str = "cpu",
) -> ResponseBatch:
    """Build a batch from token rows; response ``n`` belongs to prompt ``n // K``."""
    if not prompts or len(responses) % len(prompts):
        raise ValueError(
            f"expected the same number of responses for each of {len(prompts)} prompts, "
            f"got {len(responses)} responses"
        )
    repeat = len(responses) // len(prompts)
    prefixes = tuple(row[:-1] for row in prompts)
    own = tuple([prompts[n // repeat][-1], *row] for n, row in enumerate(responses))
    width = max(map(len, responses), default=0)
    return ResponseBatch(prefixes, own, width, pad, torch.device(device))


def hidden_states(
    runner: DecoderRunner,
    batch: ResponseBatch,
    below: Tensor | None = None,
    places: Tensor | None = None,
) -> Tensor:
    """Return a runner's states, packed, each prompt run once. ``(T, D)``, or ``(places, D)``.

    ``below`` is the output of the layers underneath ``(T, D)``, None where this runner embeds the ids;
    ``places`` are those in the packed row whose states are wanted, none of them in prefixes, None for
    all: of others the last layer computes keys and values alone.
    """
    inputs = batch.packed_ids if below is None else below
    if runner.capabilities.packs:
        states = runner.packed_forward(inputs, batch.layout, places)
    else:
        states = _whole_texts(runner, batch, inputs)
    return states if places is None else states.index_select(0, places)


def states_before(
    runner: DecoderRunner, batch: ResponseBatch, below: Tensor | None = None
) -> Tensor:
    """Return the state before each response token ``(tokens, D)``; ``below`` is of ``batch.inputs``."""
    inputs = batch.inputs
    return hidden_states(runner, inputs, below, inputs.places([0] * len(inputs.continuations)))


def _whole_texts(runner: DecoderRunner, batch: ResponseBatch, inputs: Tensor) -> Tensor:
    edges, repeat = list(accumulate(batch.prefix_lengths, initial=0)), batch.per_prefix
    texts = [
        [*range(edges[n // repeat], edges[n // repeat + 1]), *range(start, start + len(row))]
        for n, (start, row) in enumerate(zip(batch.starts, batch.continuations, strict=False))
    ]
    groups: dict[int, list[list[int]]] = {}
    for text in filter(None, texts):
        groups.setdefault(0 if runner.capabilities.pads else len(text), []).append(text)
    states, back, done = [], [0] * len(inputs), 0
    for members in groups.values():
        width = max(map(len, members))
        for text in members:
            for column, place in enumerate(text, done):
                back[place] = column
            done += width
        lengths, *rows = to_device([list(map(len, members)), *members], batch.device)
        index = pad_sequence(rows, batch_first=True)
        columns = torch.arange(width, device=batch.device).expand_as(index)
        found = runner(inputs[index], columns < lengths[:, None], columns)
        states.append(found.flatten(0, 1))
    (order,) = to_device([back], batch.device)
    return torch.cat(states).index_select(0, order)
