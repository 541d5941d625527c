"""A causal language model that is in memory already, taken as ``load_backbone`` loads one by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rlaif_pl.models.adapters import has_adapters
from rlaif_pl.models.backbone import Backbone, Precision, resolve_dtype
from rlaif_pl.models.identity import UNNAMED
from rlaif_pl.models.model_info import model_info
from rlaif_pl.models.suited import cast_weights, freeze, require_decoder


class LoadedModel(NamedTuple):
    """A model and its tokenizer."""

    model: PreTrainedModel  # as `from_pretrained` of transformers returns it
    tokenizer: PreTrainedTokenizerBase  # its tokenizer

    @property
    def source(self) -> str:
        """Where it was read from; empty where that is not known."""
        return str(self.model.name_or_path or "")

    @property
    def name(self) -> str:
        """What messages and model cards call it: where it was read from, or its class."""
        return self.source or type(self.model).__name__


def handed_over(
    model: object, tokenizer: PreTrainedTokenizerBase | None = None
) -> LoadedModel | None:
    """Return a model that is in memory, checked; None for the name of one, which has its own tokenizer.

    Raises:
        TypeError: It is neither a name nor a transformers model.
        ValueError: It holds adapters or quantized weights, its tokenizer is not known, or a tokenizer
            comes with a name.
    """
    if isinstance(model, str | Path):
        if tokenizer is not None:
            raise ValueError(
                f"expected a tokenizer only with a loaded model, got one with the name {str(model)!r}, "
                "which brings its own; load the model with transformers to pair it with another "
                "tokenizer"
            )
        return None
    kind = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"expected the name of a model, a folder, or a transformers model, got {kind}; of a PEFT "
            "model give what merge_and_unload() returns"
        )
    if has_adapters(model):
        raise ValueError(
            f"expected {kind} without adapters, got LoRA layers in it; merge them "
            "(PEFT: merge_and_unload()) and ask for new ones with lora=Lora(...)"
        )
    is_exact = all(p.is_floating_point() for p in model.parameters())
    if not is_exact or getattr(model, "is_quantized", False):
        raise ValueError(
            f"expected weights in floating point, got a quantized {kind}; load it with "
            "dtype=torch.bfloat16 or torch.float32"
        )
    if tokenizer is None:
        if not model.name_or_path:
            raise ValueError(
                f"expected a tokenizer with {kind}, which was not read from a folder or the hub; pass "
                "tokenizer="
            )
        tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
    return LoadedModel(model, tokenizer)


def loaded_backbone(
    loaded: LoadedModel,
    dtype: Precision | None = None,
    gradient_checkpointing: bool = False,
    written: dict[str, Any] | None = None,
) -> Backbone:
    """Take over a loaded model, which no one else uses any longer: freeze it, without dropout.

    ``dtype`` None keeps the model's own; ``written`` is its config.json, where that is known.
    ``ValueError``: it is no decoder.
    """
    model = loaded.model
    require_decoder(loaded.name, model.config)
    if dtype is not None:
        cast_weights(model, resolve_dtype(dtype, model.device))
    freeze(model, gradient_checkpointing)
    if written is None:  # without the class's defaults, which are not the model's
        written = model.config.to_diff_dict()
    info = model_info(loaded.name, loaded.tokenizer, model, written)
    return Backbone(model, loaded.tokenizer, UNNAMED, info)
