"""States of prompts and all their responses, each prompt run once.

Exact: a continuation sees the same keys at the same positions as in a plain forward over the whole
text. It costs as many tokens as the prompts and continuations have, instead of ``N * (P + R)``. A
decoder that cannot be packed runs whole texts, padded on the right.
"""

from __future__ import annotations

from itertools import accumulate, chain

import torch
from torch import Tensor

from rlaif_pl.engine.batch import to_device
from rlaif_pl.engine.response_batch import ResponseBatch
from rlaif_pl.engine.runner import DecoderRunner


def hidden_states(
    runner: DecoderRunner,
    batch: ResponseBatch,
    below: Tensor | None = None,
    places: Tensor | None = None,
) -> Tensor:
    """Return a runner's states of a batch, packed. ``(T, D)``, or ``(places, D)``.

    Args:
        runner: Layers to run.
        batch: Texts.
        below: Output of the layers underneath ``(T, D)``; None where this runner embeds the ids itself.
        places: Places in the packed row whose states are wanted, none of them in prefixes. The last
            layer then computes no more than keys and values of all others. None for all.
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
    """Return a runner's state before each response token, whose last is not run. ``(tokens, D)``.

    ``below`` is the output of the layers underneath for ``batch.inputs``, if there are any.
    """
    inputs = batch.inputs
    return hidden_states(runner, inputs, below, inputs.places([0] * len(inputs.continuations)))


def _whole_texts(runner: DecoderRunner, batch: ResponseBatch, inputs: Tensor) -> Tensor:
    edges, repeat = list(accumulate(batch.prefix_lengths, initial=0)), batch.per_prefix
    texts = [
        [*range(edges[n // repeat], edges[n // repeat + 1]), *range(start, start + len(row))]
        for n, (start, row) in enumerate(zip(batch.starts, batch.continuations, strict=False))
    ]
    groups: dict[int, list[int]] = {}
    for n, text in enumerate(texts):
        if text:
            groups.setdefault(0 if runner.capabilities.pads else len(text), []).append(n)
    states, back, done = [], [0] * len(inputs), 0
    for members in groups.values():
        width = max(len(texts[n]) for n in members)
        for row, n in enumerate(members):
            for column, place in enumerate(texts[n]):
                back[place] = done + row * width + column
        done += len(members) * width
        rows = [[*texts[n], *[0] * (width - len(texts[n]))] for n in members]
        lists = [list(chain.from_iterable(rows)), [len(texts[n]) for n in members]]
        index, lengths = to_device(lists, batch.device)
        columns = torch.arange(width, device=batch.device).expand(len(members), -1)
        is_real = columns < lengths[:, None]
        found = runner(inputs[index.view(columns.shape)], is_real, columns)
        states.append(found.flatten(0, 1))
    (order,) = to_device([back], batch.device)
    return torch.cat(states).index_select(0, order)
