"""Attention over a packed row, prompt by prompt, inside the layers of any transformers decoder.

transformers lets an attention function be registered by name. Ours is put in front of the one a model
has: given a ``PackedRow`` it computes each prompt's attention to itself and each response's attention
to prompt and itself, and nothing between texts; without one it hands on to the model's own. So layers,
rotary positions, adapters and gradient checkpointing stay the library's. No mask of the whole row is
ever made: a prompt needs none, and a response of R tokens one of (R, P + R).
"""

from __future__ import annotations

import copy
import sys
import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rlaif_pl.models.pair_layout import PackedRow, Tree, pack_texts

PREFIX = "packed_or_"  # of the names under which the function is registered
KINDS = {"full_attention", "sliding_attention"}  # layer types that it computes
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # of the self-test; others round more
ROUGH = 5e-2
PROBE = (7, (5, 3))  # tokens of the prefix and of the continuations of the self-test

_noticed: set[str] = set()  # architectures whose fallback was reported


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *args: Any,
    plain: str,
    packed_row: PackedRow | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend within a packed row, or as the model did before.

    Args:
        module: The calling attention module.
        query: ``(1, heads, T, head size)``
        key: ``(1, key heads, T, head size)``; fewer heads than ``query`` are shared by several.
        value: Like ``key``.
        attention_mask: For the model's own function.
        args: For the model's own function.
        plain: Name of the model's own function.
        packed_row: How the row is laid out; None calls the model's own function.
        options: Scale, window and soft cap, by the names that transformers gives them.

    Returns:
        ``(1, T, heads, head size)`` and, of the model's own function, its weights.
    """
    if packed_row is None:
        own = _plain_attention(module, plain)
        result: tuple[Tensor, Tensor | None] = own(
            module, query, key, value, attention_mask, *args, **options
        )
        return result
    window, cap = options.get("sliding_window"), options.get("softcap")
    packed_row.windows.add(window)
    attend = partial(_attend, scale=options.get("scaling"), cap=cap)
    # Split, not sliced: the gradient of a slice is as long as the row, that of a split the piece.
    queries, keys, values = (t.split(packed_row.sizes, 2) for t in (query, key, value))
    results, place = [], 0
    for tree in packed_row.trees:
        end = place + 1 + len(tree.branches)
        parts = tuple(t[place:end] for t in (queries, keys, values))
        results += _tree(tree, parts, packed_row, window, attend)
        place = end
    return torch.cat([part.transpose(1, 2) for part in results], 1), None


def _tree(tree: Tree, parts: Any, row: PackedRow, window: int | None, attend: Any) -> list[Tensor]:
    """Attend in one prefix and its continuations; one result for each, without empty ones."""
    (query, *queries), (key, *keys), (value, *values) = parts
    results = []
    if tree.prefix:
        results.append(attend(query, key, value, row.sees(0, tree.prefix, window)))
    for own, q, k, v in zip(tree.branches, queries, keys, values, strict=True):
        if tree.prefix:
            k, v = torch.cat([key, k], 2), torch.cat([value, v], 2)
        results.append(attend(q, k, v, row.sees(tree.prefix, own, window)))
    return results


def _attend(
    query: Tensor, key: Tensor, value: Tensor, sees: Tensor | None, scale: float | None, cap: Any
) -> Tensor:
    """Attend in one text; without ``sees`` each token sees those before it."""
    share = query.shape[1] // key.shape[1]
    if cap is None and (key.device.type == "cpu" or sees is None):
        return F.scaled_dot_product_attention(
            query, key, value, sees, is_causal=sees is None, scale=scale, enable_gqa=share > 1
        )
    key, value = (t.repeat_interleave(share, 1) for t in (key, value))
    if cap is None:
        return F.scaled_dot_product_attention(query, key, value, sees, scale=scale)
    length = query.shape[2]
    if sees is None:
        sees = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = cap * torch.tanh(scores / cap)
    weights = scores.masked_fill(~sees, float("-inf")).softmax(-1, dtype=torch.float32)
    return weights.to(value.dtype) @ value


def _plain_attention(module: nn.Module, name: str) -> Any:
    """Return the attention function that a module had; ``eager`` is in the model's own file."""
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    return ALL_ATTENTION_FUNCTIONS.get_interface(name, eager)


def run_packed(decoder: PreTrainedModel, inputs: Tensor, row: PackedRow) -> Tensor:
    """Run a prepared decoder on a packed row.

    Args:
        decoder: One for which ``prepare`` returned True.
        inputs: Ids ``(T,)`` or hidden states ``(T, D)``.
        row: How they are laid out.

    Returns:
        States ``(T, D)``.
    """
    which = "inputs_embeds" if inputs.is_floating_point() else "input_ids"
    # A mask of four dimensions is handed down as it is; ours says nothing and is not read.
    blank = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=inputs.device)
    output = decoder(
        **{which: inputs[None]},
        attention_mask=blank,
        position_ids=row.positions[None],
        use_cache=False,
        packed_row=row,
    )
    states: Tensor = output.last_hidden_state[0]
    return states


def prepare(decoder: PreTrainedModel) -> bool:
    """Put the attention function in front of a decoder's own, if the decoder then computes right.

    Tested on a small tree against each of its texts alone, so that an architecture that looks at other
    tokens anywhere but in attention, or in another way, is found out. Where it fails the decoder is left
    as it was, and one line says so, once an architecture.

    Returns:
        Whether the decoder can run packed rows.
    """
    before = _redirect(decoder)
    try:
        reason = _unfit(decoder)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if reason is None:
        return True
    for module, config in before:
        module.config = config
    name = type(decoder).__name__
    if name not in _noticed:
        _noticed.add(name)
        warnings.warn(
            f"{name} cannot run texts packed without padding ({reason}); it runs padded batches",
            stacklevel=2,
        )
    return False


def _redirect(decoder: PreTrainedModel) -> list[tuple[Any, Any]]:
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
            ALL_ATTENTION_FUNCTIONS.register(name, partial(attention, plain=plain))
        before.append((module, config))
        module.config = copies[id(config)]
    return before


@torch.no_grad()
def _unfit(decoder: PreTrainedModel) -> str | None:
    """Say why a decoder cannot run packed rows, or None if it can."""
    config = decoder.config.get_text_config()
    other = set(getattr(config, "layer_types", None) or KINDS) - KINDS
    if other:
        return f"layers of type {', '.join(sorted(other))}"
    weight = next(decoder.parameters())
    prefix, branches = PROBE
    row = pack_texts(prefix, branches, weight.device)
    total = prefix + sum(branches)
    embedding = decoder.get_input_embeddings()
    if embedding is None:
        generator = torch.Generator().manual_seed(0)
        states = torch.randn(total, int(config.hidden_size), generator=generator)
        inputs = states.to(weight.device, weight.dtype)
    else:
        inputs = torch.arange(2, 2 + total, device=weight.device) % embedding.weight.shape[0]
    packed = run_packed(decoder, inputs, row)
    if _slides(config) and row.windows <= {None}:
        return "its attention does not say its sliding window"
    gap, size, start = 0.0, 1e-6, prefix
    for length in branches:
        text = [*range(prefix), *range(start, start + length)]
        expected = _alone(decoder, inputs[text])
        gap = max(gap, (packed[text] - expected).abs().max().item())
        size = max(size, expected.abs().max().item())
        start += length
    is_close = gap / size < TOLERANCE.get(weight.dtype, ROUGH)
    return None if is_close else f"its states are off by {gap / size:.1e} of the largest"


def _slides(config: PreTrainedConfig) -> bool:
    """Whether some layer has a sliding window by the config."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return "sliding_attention" in kinds
    has_window = getattr(config, "sliding_window", None) is not None
    return has_window and getattr(config, "use_sliding_window", True) is not False


def _alone(decoder: PreTrainedModel, inputs: Tensor) -> Tensor:
    """Run one text the way the model itself does; ids ``(T,)`` or states to states ``(T, D)``."""
    which = "inputs_embeds" if inputs.is_floating_point() else "input_ids"
    positions = torch.arange(len(inputs), device=inputs.device)[None]
    output = decoder(
        **{which: inputs[None]},
        attention_mask=torch.ones_like(positions),
        position_ids=positions,
        use_cache=False,
    )
    states: Tensor = output.last_hidden_state[0]
    return states
