"""Run a stack over prompts once and over all continuations of each prompt.

Exact: a continuation sees the same keys at the same positions as in a plain forward over the whole
text (tests compare both within 1e-4). It costs as many tokens as the prompts and continuations have,
instead of ``N * (P + R)``.

The tokens of the batch run in one row without padding (``pair_attention``). A model that cannot do that
runs padded prompts through a key/value cache, ``G * P + N * R`` tokens, or, where a cache is no use
either, whole padded texts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from rlaif_pl.models.backbone import attention_window
from rlaif_pl.models.encoding import PrefixBatch
from rlaif_pl.models.pair_layout import pack
from rlaif_pl.models.stack import Stack


class States(NamedTuple):
    """Hidden states of a batch after some stack."""

    prefix: Tensor  # (G, P, D)
    continuation: Tensor  # (N, 1 + R, D)


def run(
    stack: Stack,
    batch: PrefixBatch,
    below: States | None = None,
    share_prefix: bool = True,
    is_wanted: Tensor | None = None,
) -> States:
    """Return the stack's hidden states for a batch.

    Args:
        stack: Layers to run.
        batch: Token ids and masks.
        below: Output of the stack underneath; None where this stack embeds the ids itself.
        share_prefix: Compute each prefix once; False runs whole texts. Without packing they are run
            whole too where activations are recomputed (no cache) or a text is beyond a sliding
            window, since an index-based window would count the padding after the prefix.
        is_wanted: Continuation tokens whose states are used, ``(N, 1 + R)`` bool, which saves work
            on all others, the prefixes included, in the last layer; what is returned for those means
            nothing. None for all.
    """
    if share_prefix and stack.packs:
        return run_packed(stack, batch, below, is_wanted)
    inputs = States(batch.prefix_ids, batch.ids) if below is None else below
    window = attention_window(stack.decoder.config)
    fits = window is None or batch.prefix_ids.shape[1] + batch.ids.shape[1] <= window
    if not share_prefix or not fits or stack.recomputes or batch.prefix_ids.shape[1] == 0:
        return run_whole(stack, batch, inputs)
    cache = stack.new_cache()
    prefix = stack(inputs.prefix, batch.prefix_is_real, positions_of(batch.prefix_is_real), cache)
    spread_cache(cache, batch.per_prefix)
    start = batch.prefix_is_real.sum(1).repeat_interleave(batch.per_prefix)
    keys = torch.cat(
        [batch.prefix_is_real.repeat_interleave(batch.per_prefix, 0), batch.is_real], 1
    )
    positions = start[:, None] + torch.arange(batch.ids.shape[1], device=start.device)
    return States(prefix, stack(inputs.continuation, keys, positions, cache))


def states_before(
    stack: Stack, batch: PrefixBatch, below: States | None = None, share_prefix: bool = True
) -> Tensor:
    """Return the stack's state before each response token. ``(N, R, D)``.

    The last token of a response is not run, and of a prompt the last layer computes no more than keys
    and values. States at padding mean nothing.

    Args:
        stack: Layers to run.
        batch: Token ids and masks.
        below: Output of the stack underneath for these texts, their last tokens or not; None where
            this stack embeds the ids itself.
        share_prefix: See ``run``.
    """
    inputs = batch.inputs
    if below is not None:
        below = States(below.prefix, below.continuation[:, : inputs.ids.shape[1]])
    return run(stack, inputs, below, share_prefix, inputs.is_real).continuation


def run_packed(
    stack: Stack,
    batch: PrefixBatch,
    below: States | None = None,
    is_wanted: Tensor | None = None,
) -> States:
    """Run the real tokens of a batch as one row; see ``run``. Padded places of the result hold 0."""
    row = pack(batch)
    inputs = States(batch.prefix_ids, batch.ids) if below is None else below
    needed = None
    if is_wanted is not None:
        nowhere = torch.zeros_like(batch.prefix_is_real)
        needed = row.gather(nowhere, is_wanted).nonzero().squeeze(1)
    return States(*row.scatter(stack.packed(row.gather(*inputs), row, needed)))


def run_whole(stack: Stack, batch: PrefixBatch, inputs: States) -> States:
    """Run every text as one row ``[prefix, continuation]``, padded on the right only."""
    repeat = batch.per_prefix
    real = torch.cat([batch.prefix_is_real.repeat_interleave(repeat, 0), batch.is_real], 1)
    rows = torch.cat([inputs.prefix.repeat_interleave(repeat, 0), inputs.continuation], 1)
    order = torch.argsort((~real).to(torch.int8), dim=1, stable=True)  # real tokens first, in order
    expand = order if rows.dim() == 2 else order[..., None].expand_as(rows)
    packed = rows.gather(1, expand)
    packed_real = real.gather(1, order)
    hidden = stack(packed, packed_real, positions_of(packed_real))
    back = torch.argsort(order, dim=1)[..., None].expand_as(hidden)
    unpacked = hidden.gather(1, back)
    width = batch.prefix_ids.shape[1]
    return States(unpacked[::repeat, :width], unpacked[:, width:])


def positions_of(is_real: Tensor) -> Tensor:
    """Position of each token among the real ones of its row; padding repeats the last. ``(N, T)``."""
    return (is_real.long().cumsum(1) - 1).clamp(min=0)


def spread_cache(cache: DynamicCache, repeat: int) -> None:
    """Give each prefix's keys and values to its ``repeat`` continuations, in place."""
    if repeat > 1:
        cache.batch_repeat_interleave(repeat)
