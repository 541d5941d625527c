"""Hidden states of prompts and all their responses, each prompt run once.

Exact: a continuation sees the same keys at the same positions as in a plain forward over the whole
text. It costs as many tokens as the prompts and continuations have, instead of ``N * (P + R)``. A
decoder that cannot be packed runs whole texts, padded on the right.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlaif_pl.engine.response_batch import HiddenStates, ResponseBatch
from rlaif_pl.engine.runner import DecoderRunner


def hidden_states(
    runner: DecoderRunner,
    batch: ResponseBatch,
    below: HiddenStates | None = None,
    share_prefix: bool = True,
    firsts: Sequence[int] | None = None,
) -> HiddenStates:
    """Return a runner's hidden states for a batch.

    Args:
        runner: Layers to run.
        batch: Texts.
        below: Output of the layers underneath; None where this runner embeds the ids itself.
        share_prefix: Run each prompt once; False runs whole texts.
        firsts: Column of each continuation from which on its states are used, which saves work on all
            other tokens, the prefixes included, in the last layer; what is returned for those means
            nothing. None for all.
    """
    inputs = HiddenStates(batch.prefix_ids, batch.ids) if below is None else below
    if not share_prefix or not runner.capabilities.packs:
        return _whole_texts(runner, batch, inputs)
    packed = batch.packed
    places = None if firsts is None else batch.packed_places(firsts)
    states = runner.packed_forward(packed.gather(*inputs), packed.batch, places)
    return batch.scatter(states)


def states_before(
    runner: DecoderRunner,
    batch: ResponseBatch,
    below: HiddenStates | None = None,
    share_prefix: bool = True,
) -> Tensor:
    """Return a runner's state before each response token. ``(N, R, D)``.

    The last token of a response is not run, and of a prompt the last layer computes no more than keys
    and values. States at padding mean nothing.

    Args:
        runner: Layers to run.
        batch: Texts.
        below: Output of the layers underneath for these texts, their last tokens or not; None where
            this runner embeds the ids itself.
        share_prefix: See ``hidden_states``.
    """
    inputs = batch.inputs
    if below is not None:
        below = HiddenStates(below.prefix, below.continuation[:, : inputs.ids.shape[1]])
    firsts = [0] * len(inputs.continuation_lengths)
    return hidden_states(runner, inputs, below, share_prefix, firsts).continuation


def _whole_texts(runner: DecoderRunner, batch: ResponseBatch, inputs: HiddenStates) -> HiddenStates:
    """Run every text as one row ``[prefix, continuation]``, padded on the right only."""
    repeat = batch.per_prefix
    real = torch.cat([batch.prefix_is_real.repeat_interleave(repeat, 0), batch.is_real], 1)
    rows = torch.cat([inputs.prefix.repeat_interleave(repeat, 0), inputs.continuation], 1)
    order = torch.argsort((~real).to(torch.int8), dim=1, stable=True)  # real tokens first, in order
    expand = order if rows.dim() == 2 else order[..., None].expand_as(rows)
    is_real = real.gather(1, order)
    states = _right_padded(runner, rows.gather(1, expand), is_real, batch)
    back = torch.argsort(order, dim=1)[..., None].expand_as(states)
    unpacked = states.gather(1, back)
    width = batch.prefix_ids.shape[1]
    return HiddenStates(unpacked[::repeat, :width], unpacked[:, width:])


def _right_padded(
    runner: DecoderRunner, rows: Tensor, is_real: Tensor, batch: ResponseBatch
) -> Tensor:
    """Run rows padded on the right, or, where padding changes states, those of one length together."""
    if runner.capabilities.pads:
        return runner(rows, is_real, positions_of(is_real))
    repeat = batch.per_prefix
    groups: dict[int, list[int]] = {}
    for n, own in enumerate(batch.continuation_lengths):
        groups.setdefault(batch.prefix_lengths[n // repeat] + own, []).append(n)
    width = int(runner.decoder.config.get_text_config().hidden_size)
    states: Tensor | None = None
    for length, members in groups.items():
        index = torch.tensor(members, device=rows.device)
        mask = is_real[index, :length]
        found = runner(rows[index, :length], mask, positions_of(mask))
        found = torch.nn.functional.pad(found, (0, 0, 0, rows.shape[1] - length))
        if states is None:
            states = found.new_zeros(*rows.shape[:2], width)
        states = states.index_copy(0, index, found)
    return rows.new_zeros(*rows.shape[:2], width) if states is None else states


def positions_of(is_real: Tensor) -> Tensor:
    """Place of each token among the real ones of its row; padding repeats the last. ``(N, T)``."""
    return (is_real.long().cumsum(1) - 1).clamp(min=0)
