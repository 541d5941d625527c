"""Attention over a packed row, prompt by prompt, inside the layers of any transformers decoder.

transformers lets an attention function be registered by name. Ours is put in front of the one a model
has: given a ``PackedRow`` it computes each prompt's attention to itself and each response's attention
to prompt and itself, and nothing between texts; without one it hands on to the model's own. So layers,
rotary positions, adapters and gradient checkpointing stay the library's. No mask of the whole row is
ever made. Where ``prefix_attention`` suits, a prompt's keys serve its responses in place; elsewhere
they are laid before each response's own, and a response of R tokens needs a mask of (R, P + R).
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rlaif_pl.models import prefix_attention
from rlaif_pl.models.pair_layout import PackedRow, Tree
from rlaif_pl.models.shared_cache import SharedCache

Piece = tuple[Tensor, Tensor, Tensor]  # query, key and value of one prefix or continuation
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
PREFIX = "packed_or_"  # of the names under which the function is registered


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *args: Any,
    plain: str,
    packed_row: PackedRow | None = None,
    shared_cache: SharedCache | None = None,
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
        packed_row: How the row is laid out.
        shared_cache: Keeps the keys and values of the row. Without a row its texts get a token each,
            and the shapes are ``(n, heads, 1, head size)``. Without both, the model's own function
            is called.
        options: Scale, window and soft cap, by the names that transformers gives them.

    Returns:
        ``(1, T, heads, head size)``, or ``(n, 1, heads, head size)``, and, of the model's own function,
        its weights.
    """
    if packed_row is None and shared_cache is not None:
        scale = options.get("scaling")
        return shared_cache.write(module, query, key, value, scale), None
    if packed_row is None:
        own = _plain_attention(module, plain)
        result: tuple[Tensor, Tensor | None] = own(
            module, query, key, value, attention_mask, *args, **options
        )
        return result
    window, cap = options.get("sliding_window"), options.get("softcap")
    packed_row.windows.add(window)
    if shared_cache is not None:
        shared_cache.read(module, query, key, value, cap)
    if prefix_attention.suits(query, key, value, packed_row, window, cap):
        scale = options.get("scaling")
        return prefix_attention.attend(query, key, value, packed_row, scale), None
    attend = partial(_attend, scale=options.get("scaling"), cap=cap)
    # Split, not sliced: the gradient of a slice is as long as the row, that of a split the piece.
    queries, keys, values = (t.split(packed_row.sizes, 2) for t in (query, key, value))
    results, place = [], 0
    for tree in packed_row.trees:
        end = place + 1 + len(tree.branches)
        pieces = zip(queries[place:end], keys[place:end], values[place:end], strict=True)
        results += _tree(tree, list(pieces), packed_row, window, attend)
        place = end
    return torch.cat([part.transpose(1, 2) for part in results], 1), None


def _tree(
    tree: Tree, pieces: list[Piece], row: PackedRow, window: int | None, attend: Attend
) -> list[Tensor]:
    """Attend in one prefix and its continuations; one result for each, without an empty prefix."""
    (query, key, value), *branches = pieces
    results = []
    if tree.prefix and row.prefix_asks:
        results.append(attend(query, key, value, row.sees(0, tree.prefix, window)))
    elif tree.prefix:
        results.append(value.new_zeros(1, query.shape[1], tree.prefix, value.shape[-1]))
    for own, (q, k, v) in zip(tree.branches, branches, strict=True):
        if tree.prefix:
            k, v = torch.cat([key, k], 2), torch.cat([value, v], 2)
        results.append(attend(q, k, v, row.sees(tree.prefix, own, window)))
    return results


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sees: Tensor | None,
    scale: float | None,
    cap: float | None,
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
    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    return ALL_ATTENTION_FUNCTIONS.get_interface(name, eager)


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
            ALL_ATTENTION_FUNCTIONS.register(name, partial(attention, plain=plain))
        before.append((module, config))
        module.config = copies[id(config)]
    return before
