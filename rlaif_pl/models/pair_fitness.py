"""Find out whether a decoder computes packed rows right, by trying it.

An architecture may look at other tokens elsewhere than in attention (convolutions, recurrent layers),
or attend in another way than by scale, window and soft cap. No list of names would stay complete, so a
small tree is run packed, and each of its texts alone in the model's own way.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from rlaif_pl.models.packed_run import run_packed, run_written
from rlaif_pl.models.pair_attention import redirect
from rlaif_pl.models.pair_layout import pack_texts
from rlaif_pl.models.shared_cache import SharedCache

KINDS = {"full_attention", "sliding_attention"}  # layer types that pair_attention computes
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # of the states; other types round more
ROUGH = 5e-2
PROBE = (7, (5, 3))  # tokens of the prefix and of the continuations
WRITTEN = 2  # tokens written to each of two texts
WRONG = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)

_noticed: set[str] = set()  # architectures whose fallback was reported


class Fitness(NamedTuple):
    """What a decoder computes right.

    Attributes:
        packs: Packed rows.
        narrows: Packed rows with the last layer at some places only.
    """

    packs: bool
    narrows: bool


def prepare(decoder: PreTrainedModel) -> Fitness:
    """Put the attention function in front of a decoder's own, if the decoder then computes right.

    Where it does not, the decoder is left as it was, and one line says so, once an architecture.
    """
    before = redirect(decoder)
    reason = _unfit(decoder, narrow=False)
    if reason is None:
        return Fitness(True, _unfit(decoder, narrow=True) is None)
    for module, config in before:
        module.config = config
    name = type(decoder).__name__
    if name not in _noticed:
        _noticed.add(name)
        warnings.warn(
            f"{name} cannot run texts packed without padding ({reason}); it runs padded batches",
            stacklevel=2,
        )
    return Fitness(False, False)


@torch.no_grad()
def _unfit(decoder: PreTrainedModel, narrow: bool) -> str | None:
    """Say why a decoder cannot run packed rows (with its last layer narrowed), or None if it can."""
    config = decoder.config.get_text_config()
    other = set(getattr(config, "layer_types", None) or KINDS) - KINDS
    if other:
        return f"layers of type {', '.join(sorted(other))}"
    try:
        with torch.autocast(next(decoder.parameters()).device.type, enabled=False):
            gap, windows = _gap(decoder, narrow)
    except WRONG as error:
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if _slides(config) and windows <= {None}:
        return "its attention does not say its sliding window"
    return None if _is_close(decoder, gap) else f"its states are off by {gap:.1e} of the largest"


@torch.no_grad()
def can_write(decoder: PreTrainedModel) -> bool:
    """Whether a decoder that packs computes tokens written over a ``SharedCache`` right."""
    try:
        with torch.autocast(next(decoder.parameters()).device.type, enabled=False):
            gap = _written_gap(decoder)
    except WRONG:
        return False
    return _is_close(decoder, gap)


def _is_close(decoder: PreTrainedModel, gap: float) -> bool:
    return gap < TOLERANCE.get(next(decoder.parameters()).dtype, ROUGH)


def _written_gap(decoder: PreTrainedModel) -> float:
    """Write a few tokens to two texts of one prompt, and run each text alone.

    Returns:
        The largest difference over the largest state; infinity where a layer attends in another way.
    """
    prefix = PROBE[0]
    inputs = _inputs(decoder, prefix + 2 * WRITTEN)
    cache = SharedCache(pack_texts(prefix, (), inputs.device), per_prompt=2, room=WRITTEN)
    run_packed(decoder, inputs[:prefix], cache.row, cache=cache)
    if not cache.suits:
        return float("inf")
    tokens = inputs[prefix:].unflatten(0, (2, WRITTEN))
    gap, size = 0.0, 1e-6
    for step in range(WRITTEN):
        positions = torch.full((2, 1), prefix + step, device=inputs.device)
        found = run_written(decoder, tokens[:, step : step + 1], positions, cache)
        for text, states in zip(tokens, found, strict=True):
            expected = _alone(decoder, torch.cat([inputs[:prefix], text[: step + 1]]))[-1]
            gap = max(gap, (states[0] - expected).abs().max().item())
            size = max(size, expected.abs().max().item())
    return gap / size


def _gap(decoder: PreTrainedModel, narrow: bool) -> tuple[float, set[int | None]]:
    """Run a small tree packed and each of its texts alone.

    Returns:
        The largest difference over the largest state, and the windows that attention was given.
    """
    prefix, branches = PROBE
    total = prefix + sum(branches)
    inputs = _inputs(decoder, total)
    row = pack_texts(prefix, branches, inputs.device)
    kept = torch.arange(prefix if narrow else 0, total, device=inputs.device)
    packed = run_packed(decoder, inputs, row, kept if narrow else None)
    gap, size, start = 0.0, 1e-6, prefix
    for length in branches:
        text = torch.cat([torch.arange(prefix), torch.arange(start, start + length)])
        expected = _alone(decoder, inputs[text])
        used = slice(prefix if narrow else 0, None)
        gap = max(gap, (packed[text] - expected)[used].abs().max().item())
        size = max(size, expected.abs().max().item())
        start += length
    return gap / size, row.windows


def _inputs(decoder: PreTrainedModel, total: int) -> Tensor:
    """Make ids ``(T,)``, or states ``(T, D)`` for the upper part of a decoder that was cut."""
    weight = next(decoder.parameters())
    embedding: Any = getattr(decoder, "embed_tokens", getattr(decoder, "wte", None))
    if embedding is None:
        width = int(decoder.config.get_text_config().hidden_size)
        states = torch.randn(total, width, generator=torch.Generator().manual_seed(0))
        return states.to(weight.device, weight.dtype)
    # From all over the vocabulary: of ids that training never met states are large, and rounding of
    # 16-bit types then swings them.
    vocabulary = embedding.weight.shape[0]
    return torch.arange(1, 1 + total, device=weight.device) * vocabulary // (1 + total)


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
