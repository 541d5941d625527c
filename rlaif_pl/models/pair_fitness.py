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

from rlaif_pl.models.packed_run import run_packed
from rlaif_pl.models.pair_attention import redirect
from rlaif_pl.models.pair_layout import pack_texts

KINDS = {"full_attention", "sliding_attention"}  # layer types that pair_attention computes
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # of the states; other types round more
ROUGH = 5e-2
PROBE = (7, (5, 3))  # tokens of the prefix and of the continuations

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
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if _slides(config) and windows <= {None}:
        return "its attention does not say its sliding window"
    is_close = gap < TOLERANCE.get(next(decoder.parameters()).dtype, ROUGH)
    return None if is_close else f"its states are off by {gap:.1e} of the largest"


def _gap(decoder: PreTrainedModel, narrow: bool) -> tuple[float, set[int | None]]:
    """Run a small tree packed and each of its texts alone.

    Returns:
        The largest difference over the largest state, and the windows that attention was given.
    """
    weight = next(decoder.parameters())
    prefix, branches = PROBE
    row = pack_texts(prefix, branches, weight.device)
    total = prefix + sum(branches)
    embedding: Any = getattr(decoder, "embed_tokens", getattr(decoder, "wte", None))
    if embedding is None:  # the upper part of a decoder that was cut
        width = int(decoder.config.get_text_config().hidden_size)
        states = torch.randn(total, width, generator=torch.Generator().manual_seed(0))
        inputs = states.to(weight.device, weight.dtype)
    else:
        # From all over the vocabulary: of ids that training never met states are large, and rounding
        # of 16-bit types then swings them.
        vocabulary = embedding.weight.shape[0]
        inputs = torch.arange(1, 1 + total, device=weight.device) * vocabulary // (1 + total)
    kept = torch.arange(prefix if narrow else 0, total, device=weight.device)
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
