"""Put attention of packed batches in front of the attention that a model has."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rlaif_pl.engine.attention import reference, segments
from rlaif_pl.engine.batch import PackedBatch
from rlaif_pl.engine.decoder_layers import ATTENTION_OPTIONS, WITHOUT_EFFECT
from rlaif_pl.engine.kv_cache import KVCache

PREFIX = "rlaif_pl_packed_or_"  # of the names under which the function is registered


@dataclass(eq=False)
class PackedContext:
    """Argument by which a forward pass tells its layers of a packed batch."""

    # layout of the row; None for a step that appends one token a text to `cache`
    batch: PackedBatch | None
    cache: KVCache | None = None  # keeps keys and values
    # sliding windows that the layers asked for; None for layers without
    windows: set[int | None] | None = None


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

    Args:
        module: The calling attention module.
        query: ``(1, heads, T, size)``, or ``(n, heads, 1, size)`` for a step.
        key: Like ``query`` with key heads; fewer heads than ``query`` are shared by several.
        value: Like ``key``.
        attention_mask: For the model's own function, as ``args``.
        args: See ``attention_mask``.
        plain: Name of the model's own function.
        packed: Layout.
        options: Scale, window and soft cap, by the names that transformers gives them.

    Returns:
        ``(1, T, heads, size)``, or ``(n, 1, heads, size)``, and the model's own function's weights.

    Raises:
        NotImplementedError: The layer asks for something that has an effect and is not known here.
    """
    if packed is None:
        own: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        function = ALL_ATTENTION_FUNCTIONS.get_interface(plain, own)
        result: tuple[Tensor, Tensor | None] = function(
            module, query, key, value, attention_mask, *args, **options
        )
        return result
    scale, window, softcap = (options.pop(name, None) for name in ATTENTION_OPTIONS)
    unknown = {name for name, given in options.items() if given is not None and given is not False}
    if unknown - WITHOUT_EFFECT:
        raise NotImplementedError(
            f"expected plain attention, got {sorted(unknown - WITHOUT_EFFECT)} from "
            f"{type(module).__name__}"
        )
    if packed.windows is not None:
        packed.windows.add(window)
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    layer, batch, cache = cast(int, module.layer_idx), packed.batch, packed.cache
    if batch is None:
        q, k, v = (tensor[:, :, 0] for tensor in (query, key, value))
        return cast(KVCache, cache).append(layer, q, k, v, scale, window, softcap)[:, None], None
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if cache is not None:
        cache.prefill(layer, k, v)
    root = None if batch.root is None else batch.root.prefilled(layer)
    if segments.is_supported(q, k, v, batch.longest, window, softcap):
        return segments.attend(q, k, v, batch, scale, root)[None], None
    found = reference.attend(q, k, v, batch, scale, root, window=window, softcap=softcap)
    return found[None], None


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
            name = PREFIX + plain
            copies[id(config)]._attn_implementation_internal = name
            ALL_ATTENTION_FUNCTIONS.register(name, partial(packed_attention, plain=plain))
        before.append((module, config))
        module.config = copies[id(config)]
    return before
