"""Whether a model suits a role: what is handed over or named, checked, and refused with a reason."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from rlaif_pl.models.adapters import has_adapters

CLASSIFIER = "ForSequenceClassification"


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

    ``TypeError``: it, or the tokenizer, is neither. ``ValueError``: it holds adapters or quantized
    weights, its tokenizer is not known, or a tokenizer comes with a name.
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
    if not isinstance(tokenizer, PreTrainedTokenizerBase | None):
        raise TypeError(
            f"expected a tokenizer of transformers, got {type(tokenizer).__name__}; give what "
            "AutoTokenizer.from_pretrained returns"
        )
    if tokenizer is None:
        if not model.name_or_path:
            raise ValueError(
                f"expected a tokenizer with {kind}, which was not read from a folder or the hub; pass "
                "tokenizer="
            )
        tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
    return LoadedModel(model, tokenizer)


def require_decoder(name: str, config: PreTrainedConfig) -> None:
    """Refuse (ValueError) what cannot be a policy or a reward model: those look back only."""
    kind = type(config).__name__.removesuffix("Config")
    expected = (
        f"expected a decoder-only language model for a policy or reward model, got {name}, an"
    )
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"{expected} encoder-decoder ({kind}); the likelihood labeler and other labelers of a "
            "LocalBackend take those: name a decoder-only model here"
        )
    sees_all = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if sees_all and not getattr(config, "is_decoder", False):
        raise ValueError(
            f"{expected} encoder ({kind}) whose tokens see those after them; name a decoder-only model"
        )


def refuse_classifier(name: str, config: PreTrainedConfig) -> None:
    """Refuse (ValueError) a classifier: its output embedding, if it has one, was never trained."""
    kind = next((kind for kind in config.architectures or [] if kind.endswith(CLASSIFIER)), None)
    if kind is not None:
        raise ValueError(
            f"expected a language model in {name}, got a reward folder ({kind} in its "
            "config.json), which writes no text; name the policy that it was trained from"
        )


def warn_of_experts(decoder: PreTrainedModel, name: str) -> None:
    """Say that adapters on linear layers pass experts by, which are tensors of three dimensions."""
    sizes = {key: p.numel() for key, p in decoder.named_parameters() if p.dim() == 3}
    if sizes:
        share = sum(sizes.values()) / sum(p.numel() for p in decoder.parameters())
        warnings.warn(
            f"adapters reach the linear layers of {name} alone: its experts ({next(iter(sizes))} and "
            f"the like), {share:.0%} of the weights, stay as they are; leave lora out to train them",
            stacklevel=2,
        )
