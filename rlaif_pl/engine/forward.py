"""Forward passes of a redirected decoder: over a packed batch, and one token a text over a cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlaif_pl.engine.attention.dispatch import PackedContext
from rlaif_pl.engine.batch import PackedBatch
from rlaif_pl.engine.kv_cache import KVCache

FINAL_NORMS = ("norm", "ln_f", "final_layer_norm")
ATTENTIONS = ("self_attn", "attn", "attention")
# Parts of attention that keys and values do not need.
QUERY_PARTS = ("q_proj", "o_proj", "out_proj", "c_proj", "dense")


def packed_forward(
    decoder: PreTrainedModel,
    inputs: Tensor,
    batch: PackedBatch,
    output_places: Tensor | None = None,
    *,
    cache: KVCache | None = None,
    root: KVCache | None = None,
    windows: set[int | None] | None = None,
) -> Tensor:
    """Run a redirected decoder on a packed batch; see ``DecoderRunner.packed_forward``.

    Args:
        decoder: One whose attention is ``packed_attention``.
        inputs: Token ids ``(T,)`` or hidden states ``(T, D)``.
        batch: Their layout.
        output_places: Places whose states are used; None for all.
        cache: Keeps the keys and values.
        root: Keys and values of what all texts begin with.
        windows: Filled with the sliding windows that the layers ask for.
    """
    context = PackedContext(batch, cache, root, windows)
    with ExitStack() as stack:
        if output_places is not None and len(output_places) < len(inputs):
            stack.enter_context(prune_last_layer(decoder, output_places, len(inputs)))
        return _run(decoder, inputs[None], batch.positions[None], context)[0]


def decode_step(
    decoder: PreTrainedModel, inputs: Tensor, positions: Tensor, cache: KVCache
) -> Tensor:
    """Run a redirected decoder on one new token of each text.

    Args:
        decoder: One whose attention is ``packed_attention``.
        inputs: Ids ``(n, 1)`` or hidden states ``(n, 1, D)``.
        positions: Place of each token in its own text. ``(n, 1)`` int64
        cache: Keys and values of earlier tokens, forked; extended in place.

    Returns:
        States ``(n, 1, D)``.
    """
    states = _run(decoder, inputs, positions, PackedContext(None, cache))
    cache.length += 1
    return states


def _run(
    decoder: PreTrainedModel, inputs: Tensor, positions: Tensor, context: PackedContext
) -> Tensor:
    # A mask of four dimensions is handed down as it is; this one says nothing and is not read.
    blank = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=inputs.device)
    output = decoder(
        **token_inputs(inputs),
        attention_mask=blank,
        position_ids=positions,
        use_cache=False,
        packed=context,
    )
    return cast(Tensor, output.last_hidden_state)


def token_inputs(inputs: Tensor) -> dict[str, Tensor]:
    """Name ids or hidden states as transformers does."""
    return {"inputs_embeds" if inputs.is_floating_point() else "input_ids": inputs}


@contextmanager
def prune_last_layer(decoder: PreTrainedModel, places: Tensor, total: int) -> Iterator[None]:
    """Let what follows the last layer's keys and values compute only some places of a row.

    Args:
        decoder: A redirected decoder.
        places: Those to compute, none of them in the batch's first level.
        total: Places of the row.

    Raises:
        ValueError: The layers have no MLP or no attention of a known name.
    """

    def narrow(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].index_select(1, places), *inputs[1:])

    def widen(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        shape = (1, total, *output.shape[2:])
        return output.new_zeros(shape).index_copy(1, places, output)

    def skip_prefix_queries(
        _: nn.Module, args: tuple[Any, ...], options: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        context: PackedContext = options["packed"]
        assert context.batch is not None  # noqa: S101 - a pruned pass is a packed one
        batch = dataclasses.replace(context.batch, skip_prefix_queries=True)
        return args, {**options, "packed": dataclasses.replace(context, batch=batch)}

    attention = last_part(decoder, ATTENTIONS)
    parts = [last_part(decoder, ("mlp",))]
    parts += [part for name, part in attention.named_children() if name in QUERY_PARTS]
    parts += [part for name, part in decoder.named_children() if name in FINAL_NORMS]
    hooks = [attention.register_forward_pre_hook(skip_prefix_queries, with_kwargs=True)]
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
