"""Find out which ways of running a decoder give what it gives for each text alone, by trying them.

An architecture may look at other tokens elsewhere than in attention (convolutions, recurrent layers),
or attend in another way than by scale, window and soft cap. No list of names would stay complete, so a
few short texts are run in each way, and alone in the model's own way.

What "right" means on the machine at hand is up to the model's own noise (``noise``).
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from rlaif_pl.engine import probe_ways
from rlaif_pl.engine.attention.dispatch import redirect
from rlaif_pl.engine.modes import eval_mode

PACKABLE = {"full_attention", "sliding_attention"}  # layer types that packed attention computes

_noticed: set[str] = set()  # architectures whose fallback was reported


class Capabilities(NamedTuple):
    """Ways of running a decoder that give what it gives for each text alone.

    Attributes:
        packs: Packed batches.
        prunes: Packed batches with the last layer at some places only.
        decodes: One token a text over one copy of each prompt's keys.
        caches: The library's cache, for prompts of one length.
        pads: Whole texts, padded on the right.
        reason: Why it does not pack; None where it does.
    """

    packs: bool = True
    prunes: bool = True
    decodes: bool = True
    caches: bool = True
    pads: bool = True
    reason: str | None = None


@torch.no_grad()
def probe_capabilities(decoder: PreTrainedModel) -> Capabilities:
    """Try the ways a decoder can be run in; where it cannot pack, one line an architecture says so.

    Its layers are left with our attention function in front of their own, if it packs, else as before.
    """
    before = redirect(decoder)
    device = next(decoder.parameters()).device.type
    with eval_mode(decoder), torch.autocast(device, enabled=False):
        found = _probe(decoder)
    if found.packs:
        return found
    for module, config in before:
        module.config = config
    name = type(decoder).__name__
    if name not in _noticed:
        _noticed.add(name)
        way = "padded batches" if found.pads else "texts of one length"
        warnings.warn(
            f"{name} cannot run texts packed without padding ({found.reason}); it runs {way}, "
            "each prompt once a response",
            stacklevel=2,
        )
    return found


def _probe(decoder: PreTrainedModel) -> Capabilities:
    probe = probe_ways.Probe(decoder)
    windows: set[int | None] = set()
    reason = _other_layers(decoder) or probe.fault(lambda p: probe_ways.packed(p, windows))
    if reason is None and _slides(decoder.config) and windows <= {None}:
        reason = "its attention does not say its sliding window"
    if reason is None:
        # Only keys and values tie tokens together, so padding and the library's cache are right.
        return Capabilities(
            prunes=probe.fault(probe_ways.pruned) is None,
            decodes=probe.fault(probe_ways.decoded) is None,
        )
    return Capabilities(
        packs=False,
        prunes=False,
        decodes=False,
        caches=probe.fault(probe_ways.cached) is None,
        pads=probe.fault(probe_ways.padded) is None,
        reason=reason,
    )


def _other_layers(decoder: PreTrainedModel) -> str | None:
    """Name layers of a decoder that are not attention of a known kind; None where there are none."""
    kinds = getattr(decoder.config.get_text_config(), "layer_types", None)
    other = set(kinds or PACKABLE) - PACKABLE
    if other:
        return f"layers of type {', '.join(sorted(other))}"
    return "layers with a state of their own" if getattr(decoder, "_is_stateful", False) else None


def _slides(config: PreTrainedConfig) -> bool:
    """Whether some layer has a sliding window by the config."""
    config = config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return "sliding_attention" in kinds
    has_window = getattr(config, "sliding_window", None) is not None
    return has_window and getattr(config, "use_sliding_window", True) is not False
