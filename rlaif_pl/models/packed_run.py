"""Run a decoder on a packed row, its last layer only where the states are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlaif_pl.models.pair_layout import PackedRow
from rlaif_pl.models.shared_cache import SharedCache

FINAL_NORMS = ("norm", "ln_f", "final_layer_norm")
ATTENTIONS = ("self_attn", "attn", "attention")
ASKING = (
    "q_proj",
    "o_proj",
    "out_proj",
    "c_proj",
    "dense",
)  # of attention, but not for keys, values


def run_packed(
    decoder: PreTrainedModel,
    inputs: Tensor,
    row: PackedRow,
    needed: Tensor | None = None,
    cache: SharedCache | None = None,
) -> Tensor:
    """Run a prepared decoder on a packed row.

    Args:
        decoder: One that ``pair_fitness.prepare`` found fit to pack.
        inputs: Ids ``(T,)`` or hidden states ``(T, D)``.
        row: How they are laid out.
        needed: Places in the row whose states are used, none of them a prefix's, for a decoder that
            was found fit to narrow. Of all others the last layer then computes keys and values, but
            no query, no product after attention, no MLP and no final norm; prefixes do not attend.
            None for all.
        cache: Keeps the keys and values.

    Returns:
        States ``(T, D)``; those not needed mean nothing.
    """
    with ExitStack() as stack:
        if needed is not None and len(needed) < len(inputs):
            stack.enter_context(_narrowed(decoder, needed, len(inputs)))
        told = {"packed_row": row, "shared_cache": cache}
        return _run(decoder, inputs[None], row.positions[None], told)[0]


def run_written(
    decoder: PreTrainedModel, inputs: Tensor, positions: Tensor, cache: SharedCache
) -> Tensor:
    """Run a prepared decoder on one new token of each text in a cache.

    Args:
        decoder: One whose cache ``suits``.
        inputs: Ids ``(n, 1)`` or hidden states ``(n, 1, D)``.
        positions: Place of each token in its own text. ``(n, 1)`` int64
        cache: Keys and values of earlier tokens; extended in place.

    Returns:
        States ``(n, 1, D)``.
    """
    states = _run(decoder, inputs, positions, {"shared_cache": cache})
    cache.length += 1
    return states


def _run(
    decoder: PreTrainedModel, inputs: Tensor, positions: Tensor, told: Mapping[str, Any]
) -> Tensor:
    which = "inputs_embeds" if inputs.is_floating_point() else "input_ids"
    # A mask of four dimensions is handed down as it is; ours says nothing and is not read.
    blank = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=inputs.device)
    output = decoder(
        **{which: inputs}, attention_mask=blank, position_ids=positions, use_cache=False, **told
    )
    states: Tensor = output.last_hidden_state
    return states


@contextmanager
def _narrowed(decoder: PreTrainedModel, needed: Tensor, total: int) -> Iterator[None]:
    """Let what follows the last layer's keys and values read only some places of a row.

    Raises:
        ValueError: The layers have no MLP or no attention of a known name.
    """

    def narrow(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].index_select(1, needed), *inputs[1:])

    def widen(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.new_zeros(1, total, output.shape[-1]).index_copy(1, needed, output)

    def silence(
        _: nn.Module, args: tuple[Any, ...], options: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        row = dataclasses.replace(options["packed_row"], prefix_asks=False)
        return args, {**options, "packed_row": row}

    attention = last_part(decoder, ATTENTIONS)
    parts = [last_part(decoder, ("mlp",))]
    parts += [part for name, part in attention.named_children() if name in ASKING]
    parts += [part for name, part in decoder.named_children() if name in FINAL_NORMS]
    hooks = [attention.register_forward_pre_hook(silence, with_kwargs=True)]
    for part in parts:
        hooks += [part.register_forward_pre_hook(narrow), part.register_forward_hook(widen)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def last_part(decoder: PreTrainedModel, names: tuple[str, ...]) -> nn.Module:
    """Return a module of the last layer.

    Raises:
        ValueError: The layers have no module of these names.
    """
    found = [
        module
        for path, module in decoder.named_modules()
        if path.count(".") == 2 and path.rpartition(".")[2] in names
    ]
    if not found:
        raise ValueError(
            f"expected the layers of {type(decoder).__name__} to have a module named "
            f"{' or '.join(names)}"
        )
    return found[-1]
