"""Structure of transformers decoders: find their layers, keep some of them, cut a frozen trunk off.

``split`` cuts the decoder of a causal LM after its first k layers. The lower part (the trunk:
embeddings and k layers) is frozen and may be shared; the upper part (the top: the other layers and
the final norm) is what a role trains. Both stay ordinary transformers models, so attention, rotary
positions and caches are the library's own. Architectures that do more between embedding and first layer
than add or look up (Gemma scales, GPT-2 adds positions) are caught by a self-test, not guessed.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlaif_pl.engine.forward import FINAL_NORMS
from rlaif_pl.engine.noise import FACTOR, error_in_noise, word_ids
from rlaif_pl.engine.runner import DecoderRunner


def decoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return the decoder inside a causal LM (or the model itself when it is one already)."""
    prefix = model.base_model_prefix
    return cast(PreTrainedModel, getattr(model, prefix)) if hasattr(model, prefix) else model


def text_part(decoder: PreTrainedModel) -> PreTrainedModel:
    """Return what reads text: the language model inside a wrapper for images or sound, or all."""
    inner = getattr(decoder, "language_model", None)
    return inner if isinstance(inner, PreTrainedModel) else decoder


def layers_of(decoder: PreTrainedModel) -> nn.ModuleList:
    """Return the list of layers of a decoder.

    Raises:
        ValueError: The architecture keeps its layers under another name than ``layers`` or ``h``.
    """
    for name in ("layers", "h"):
        found = getattr(decoder, name, None)
        if isinstance(found, nn.ModuleList):
            return found
    raise ValueError(
        f"expected a decoder with a ModuleList named 'layers' or 'h', got {type(decoder).__name__}; "
        "use trunk_layers=0 and num_layers=None for this architecture"
    )


def keep_layers(decoder: PreTrainedModel, start: int, stop: int) -> PreTrainedModel:
    """Return a decoder that runs layers ``start`` (inclusive) to ``stop`` (exclusive) only.

    Weights are shared with ``decoder``, whose own layers must not be run afterwards: each kept
    layer is told its new index in the cache.
    """
    part = copy.copy(decoder)
    part._modules = dict(decoder._modules)
    layers = layers_of(decoder)
    kept = nn.ModuleList(list(layers)[start:stop])
    setattr(part, "layers" if hasattr(decoder, "layers") else "h", kept)
    for index, layer in enumerate(kept):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index  # type: ignore[assignment]
    part.config = copy.deepcopy(decoder.config)
    part.config.num_hidden_layers = len(kept)
    if getattr(part.config, "layer_types", None):
        part.config.layer_types = part.config.layer_types[start:stop]
    return part


def split(
    decoder: PreTrainedModel, trunk_layers: int
) -> tuple[DecoderRunner | None, DecoderRunner]:
    """Cut a decoder into a frozen trunk and a top.

    Args:
        decoder: Decoder without head; consumed (its layers are re-indexed).
        trunk_layers: Layers in the trunk; 0 gives no trunk and the whole decoder as top.

    Returns:
        ``(trunk, top)``. The trunk takes token ids and gives raw hidden states; the top takes those
        (or token ids when there is no trunk) and ends with the final norm.

    Raises:
        ValueError: ``trunk_layers`` is out of range, or running the two parts one after the other
            does not give what the whole decoder gives.
    """
    if trunk_layers == 0:
        return None, DecoderRunner(decoder)
    total = len(layers_of(decoder))
    if not 0 <= trunk_layers < total:
        raise ValueError(
            f"trunk_layers must be in [0, {total - 1}] for this model, got {trunk_layers}"
        )
    device = next(decoder.parameters()).device
    ids = word_ids(int(decoder.config.get_text_config().vocab_size), 16, device).view(2, 8)
    is_real = torch.ones_like(ids, dtype=torch.bool)
    positions = torch.arange(8, device=device).expand(2, 8)
    decoder.eval()
    with torch.no_grad():
        whole = DecoderRunner(decoder)(ids, is_real, positions).flatten(0, 1)
    lower = keep_layers(decoder, 0, trunk_layers)
    upper = keep_layers(decoder, trunk_layers, total)
    setattr(lower, final_norm_name(decoder), nn.Identity())
    trunk, top = DecoderRunner(lower), DecoderRunner(upper)
    trunk.requires_grad_(False)

    def parts() -> Tensor:
        return top(trunk(ids, is_real, positions), is_real, positions).flatten(0, 1)

    with torch.no_grad():
        error = error_in_noise(whole, parts(), parts, lower)
    if not error <= FACTOR:
        raise ValueError(
            f"expected the trunk and the top of {type(decoder).__name__} to reproduce the whole model, "
            f"got states off by {error:.1e} times its rounding; this architecture cannot be cut: use "
            "trunk_layers=0"
        )
    drop_embedding(upper)
    return trunk, top


def final_norm_name(decoder: PreTrainedModel) -> str:
    """Return the name of the norm after the last layer.

    Raises:
        ValueError: It has none of the known names.
    """
    for name in FINAL_NORMS:
        if hasattr(decoder, name):
            return name
    raise ValueError(
        f"expected {type(decoder).__name__} to name its last norm norm, ln_f or final_layer_norm; "
        "use trunk_layers=0 for this architecture"
    )


def drop_embedding(decoder: PreTrainedModel) -> None:
    """Remove the token embedding of a decoder that is only ever given hidden states."""
    for name in ("embed_tokens", "wte"):
        if hasattr(decoder, name):
            setattr(decoder, name, None)
