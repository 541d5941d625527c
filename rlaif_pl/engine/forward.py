"""Forward passes of a redirected decoder: over a packed batch, and one token a text over a cache."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from rlaif_pl.engine.attention.dispatch import PackedContext
from rlaif_pl.engine.batch import PackedBatch
from rlaif_pl.engine.decoder_layers import prune_last_layer
from rlaif_pl.engine.kv_cache import KVCache


def packed_forward(
    decoder: PreTrainedModel,
    inputs: Tensor,
    batch: PackedBatch,
    output_places: Tensor | None = None,
    *,
    cache: KVCache | None = None,
    windows: set[int | None] | None = None,
) -> Tensor:
    """Run a redirected decoder on a packed batch; see ``DecoderRunner.packed_forward``.

    ``windows`` is filled with the sliding windows that the layers ask for.
    """
    context = PackedContext(batch, cache, windows)
    with ExitStack() as stack:
        if output_places is not None and len(output_places) < len(inputs):
            stack.enter_context(prune_last_layer(decoder, output_places, len(inputs)))
        return _run(decoder, inputs[None], batch.positions[None], context)[0]


def decode_step(
    decoder: PreTrainedModel, inputs: Tensor, positions: Tensor, cache: KVCache
) -> Tensor:
    """Run a redirected decoder on one new token of each text; see ``packed_forward``.

    Ids ``(n, 1)`` or states ``(n, 1, D)``, with the place of each token in its text ``(n, 1)``,
    extend a forked cache; returns states ``(n, 1, D)``.
    """
    states = _run(decoder, inputs, positions, PackedContext(None, cache))
    cache.length += 1
    return states


def plain_forward(
    decoder: PreTrainedModel,
    inputs: Tensor,
    is_real: Tensor,
    positions: Tensor,
    cache: DynamicCache | None = None,
) -> Tensor:
    """Run a decoder the way the library does; see ``DecoderRunner.forward``."""
    known = inspect.signature(decoder.forward).parameters
    held = "cache" if "cache" in known else "past_key_values"  # transformers 5.24 renames it
    output = decoder(
        **{_input_name(inputs): inputs, held: cache},
        attention_mask=is_real.long(),
        position_ids=positions,
        use_cache=cache is not None,
    )
    return cast(Tensor, output.last_hidden_state)


def _run(
    decoder: PreTrainedModel, inputs: Tensor, positions: Tensor, context: PackedContext
) -> Tensor:
    # A mask of four dimensions is handed down as it is; this one says nothing and is not read.
    blank = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=inputs.device)
    output = decoder(
        **{_input_name(inputs): inputs},
        attention_mask=blank,
        position_ids=positions,
        use_cache=False,
        packed=context,
    )
    return cast(Tensor, output.last_hidden_state)


def _input_name(inputs: Tensor) -> str:
    return "inputs_embeds" if inputs.is_floating_point() else "input_ids"


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Leave train mode for a while: there, layers that recompute activations keep no cache."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
