"""Attention of packed batches inside the layers of any transformers decoder.

An attention function is registered with transformers in front of the one a model has: given a
``PackedContext`` it attends within the texts of a packed batch, without one it hands on to the model's.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rlaif_pl.engine.attention import segments
from rlaif_pl.engine.attention.leaf import Scoring
from rlaif_pl.engine.batch import PackedBatch
from rlaif_pl.engine.decoder_layers import ATTENTION_OPTIONS, WITHOUT_EFFECT
from rlaif_pl.engine.kv_cache import KVCache

PREFIX = "rlaif_pl_packed_or_"  # of the names under which the function is registered


class PackedContext(NamedTuple):
    """Argument by which a forward pass tells its layers of a packed batch."""

    batch: PackedBatch | None  # None for a step that appends one token a text to `cache`
    cache: KVCache | None = None  # keeps keys and values


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *args: Any,
    plain: str,
    packed: PackedContext | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend within a packed batch, or, without ``packed``, by the model's function named ``plain``.

    Queries are ``(1, heads, T, size)``, or ``(n, heads, 1, size)`` for a step, keys and values have as
    many heads or fewer. Returns ``(1, T, heads, size)`` or ``(n, 1, heads, size)``, with the weights of
    the model's own function. NotImplementedError where a layer asks for something unknown.
    """
    if packed is None:
        own: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        function = ALL_ATTENTION_FUNCTIONS.get_interface(plain, own)
        return function(module, query, key, value, attention_mask, *args, **options)
    scoring = Scoring(*(options.pop(name, None) for name in ATTENTION_OPTIONS))
    given = {name for name, value in options.items() if value is not None and value is not False}
    if unknown := sorted(given - WITHOUT_EFFECT):
        raise NotImplementedError(
            f"expected plain attention, got {unknown} from {type(module).__name__}"
        )
    device = query.device.type
    if torch.is_autocast_enabled(device):
        query, key, value = (t.to(torch.get_autocast_dtype(device)) for t in (query, key, value))
    layer, batch, cache = cast(int, module.layer_idx), packed.batch, packed.cache
    with torch.autocast(device, enabled=False):  # which would round products of plain attention
        if batch is None:
            q, k, v = (tensor[:, :, 0] for tensor in (query, key, value))
            return cast(KVCache, cache).append(layer, (q, k, v), scoring)[:, None], None
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        if cache is not None:
            cache.prefilled[layer] = k, v
        batch.windows.add(scoring.window)
        by_blocks = segments.is_supported((q, k, v), batch.longest, scoring)
        attend = segments.attend if by_blocks else segments.attend_by_text
        return attend((q, k, v), batch, scoring, batch.root.keys.get(layer))[None], None


def redirect(decoder: PreTrainedModel) -> list[tuple[Any, Any]]:
    """Give the layers a config that names our function; returns modules with their old config.

    Masks are made by the decoder, whose own config stays: for it nothing changes.
    """
    before: list[tuple[Any, Any]] = []
    copies: dict[int, Any] = {}
    for module in decoder.modules():
        config = getattr(module, "config", None)
        plain = getattr(config, "_attn_implementation", None)
        if module is decoder or not isinstance(plain, str) or plain.startswith(PREFIX):
            continue
        if id(config) not in copies:
            copies[id(config)] = copy.copy(config)
            copies[id(config)]._attn_implementation_internal = PREFIX + plain
            ALL_ATTENTION_FUNCTIONS.register(PREFIX + plain, partial(packed_attention, plain=plain))
        before.append((module, config))
        module.config = copies[id(config)]
    return before


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
