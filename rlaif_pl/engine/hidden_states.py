"""States of prompts and all their responses, each prompt run once, exact; or of whole texts, padded."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlaif_pl.engine.batch import to_device
from rlaif_pl.engine.response_batch import ResponseBatch

if TYPE_CHECKING:
    from rlaif_pl.engine.runner import DecoderRunner


def hidden_states(
    runner: DecoderRunner,
    batch: ResponseBatch,
    below: Tensor | None = None,
    places: Tensor | None = None,
) -> Tensor:
    """Return a runner's states of a batch, packed. ``(T, D)``, or ``(places, D)``.

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
