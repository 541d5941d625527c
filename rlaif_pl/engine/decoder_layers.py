"""Structure of transformers decoders, and our attention in front of their own.

Every fact about an architecture that the engine goes by is here. A decoder that has none of the names
below, or does something else under them, is caught by the probes (``capabilities``), not guessed.
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
from rlaif_pl.engine.attention.segments import KVCache
from rlaif_pl.engine.batch import PackedBatch

PREFIX = "rlaif_pl_packed_or_"  # of the names under which our attention is registered
LAYERS = ("layers", "h")
EMBEDDINGS = ("embed_tokens", "wte")
FINAL_NORMS = ("norm", "ln_f", "final_layer_norm")
ATTENTIONS = ("self_attn", "attn", "attention")
MLPS = ("mlp",)
QUERY_PARTS = ("q_proj", "o_proj", "out_proj", "c_proj", "dense")  # keys and values need none
PACKABLE = {"full_attention", "sliding_attention"}  # layer types that packed attention computes
# Said to every attention function and of no effect on a packed one: nothing is dropped, and the batch
# says which token sees which. What else has an effect and is not known (sinks) is refused.
ATTENTION_OPTIONS = ("scaling", "sliding_window", "softcap")
WITHOUT_EFFECT = {"dropout", "is_causal", "position_ids", "use_cache", "cache_position"}


def decoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return the decoder inside a causal LM (or the model itself when it is one already)."""
    prefix = model.base_model_prefix
    return cast(PreTrainedModel, getattr(model, prefix)) if hasattr(model, prefix) else model


def text_part(decoder: PreTrainedModel) -> PreTrainedModel:
    """Return what reads text: the language model inside a wrapper for images or sound, or all."""
    inner = getattr(decoder, "language_model", None)
    return inner if isinstance(inner, PreTrainedModel) else decoder


def keep_softcap(model: PreTrainedModel) -> None:
    """Let a model whose config caps attention scores use a function that caps them, as Gemma 2.

    Through 5.17 transformers gives such models ``sdpa``, which leaves the cap out without a word.
    """
    for config in (getattr(module, "config", None) for module in model.modules()):
        is_capped = getattr(config, "attn_logit_softcapping", None) is not None
        if is_capped and getattr(config, "_attn_implementation", None) == "sdpa":
            config._attn_implementation = "eager"  # type: ignore[union-attr]


def embedding_of(model: PreTrainedModel) -> nn.Module | None:
    """Return the token embedding; None of the upper part of a decoder that was cut."""
    try:
        found = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return found if isinstance(found, nn.Module) else None


def layers_of(decoder: PreTrainedModel) -> nn.ModuleList:
    """Return a decoder's list of layers; ValueError where it has another name."""
    return cast(nn.ModuleList, getattr(decoder, name_of(decoder, LAYERS, nn.ModuleList)))


def name_of(
    decoder: PreTrainedModel, names: tuple[str, ...], kind: type[nn.Module] = nn.Module
) -> str:
    """Return which of some names a part of a decoder has; ValueError for none."""
    for name in names:
        if isinstance(getattr(decoder, name, None), kind):
            return name
    raise ValueError(
        f"expected a decoder with a {kind.__name__} named {' or '.join(map(repr, names))}, got "
        f"{type(decoder).__name__}; use trunk_layers=0 and num_layers=None for this architecture"
    )


def unpackable_layers(decoder: PreTrainedModel) -> str | None:
    """Name layers of a decoder that are not attention of a known kind; None where there are none."""
    kinds = getattr(decoder.config.get_text_config(), "layer_types", None)
    other = set(kinds or PACKABLE) - PACKABLE
    if other:
        return f"layers of type {', '.join(sorted(other))}"
    return "layers with a state of their own" if getattr(decoder, "_is_stateful", False) else None


def has_window(decoder: PreTrainedModel) -> bool:
    """Whether some layer has a sliding window by the config."""
    config = decoder.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return "sliding_attention" in kinds
    window = getattr(config, "sliding_window", None)
    return window is not None and getattr(config, "use_sliding_window", True) is not False


def keep_layers(decoder: PreTrainedModel, start: int, stop: int) -> PreTrainedModel:
    """Return a decoder that runs layers ``start`` (inclusive) to ``stop`` (exclusive) only.

    Weights are shared with ``decoder``, which must not be run afterwards: layers get new indices.
    """
    part = copy.copy(decoder)
    part._modules = dict(decoder._modules)
    kept = nn.ModuleList(list(layers_of(decoder))[start:stop])
    setattr(part, name_of(decoder, LAYERS, nn.ModuleList), kept)
    for index, layer in enumerate(kept):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index  # type: ignore[assignment]
    part.config = copy.deepcopy(decoder.config)
    part.config.num_hidden_layers = len(kept)
    if getattr(part.config, "layer_types", None):
        part.config.layer_types = part.config.layer_types[start:stop]
    return part


@contextmanager
def prune_last_layer(decoder: PreTrainedModel, places: Tensor | None, total: int) -> Iterator[None]:
    """Let what follows the last layer's keys and values compute only some of ``total`` places.

    None of them is in the first level. ValueError where parts have unknown names.
    """
    if places is None or len(places) == total:
        yield
        return

    def narrow(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].index_select(1, places), *inputs[1:])

    def widen(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        shape = (1, total, *output.shape[2:])
        return output.new_zeros(shape).index_copy(1, places, output)

    def skip_prefix_queries(_: nn.Module, args: Any, options: dict[str, Any]) -> Any:
        packed = options["packed"]
        return args, {**options, "packed": packed._replace(batch=packed.batch.continuations)}

    attention = _last_part(decoder, ATTENTIONS)
    parts = [_last_part(decoder, MLPS)]
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


def _last_part(decoder: PreTrainedModel, names: tuple[str, ...]) -> nn.Module:
    for path, module in reversed(list(decoder.named_modules())):
        if path.count(".") == 2 and path.rpartition(".")[2] in names:
            return module
    name = type(decoder).__name__
    raise ValueError(f"expected the layers of {name} to have a module named {' or '.join(names)}")


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
