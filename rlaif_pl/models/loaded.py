"""A causal language model that is in memory already, taken as ``load_backbone`` loads one by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rlaif_pl.engine.decoder_layers import keep_softcap
from rlaif_pl.models.adapters import has_adapters
from rlaif_pl.models.backbone import Backbone, Precision, resolve_dtype
from rlaif_pl.models.identity import UNNAMED
from rlaif_pl.models.model_info import model_info
from rlaif_pl.models.prepare import cast_weights, drop_dropout, recompute_activations
from rlaif_pl.models.suited import refuse_classifier, require_decoder


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model and its tokenizer."""

    model: PreTrainedModel  # as `from_pretrained` of transformers returns it
    tokenizer: PreTrainedTokenizerBase  # its tokenizer

    @property
    def name(self) -> str:
        """What messages and model cards call it: where it was read from, or its class."""
        return str(self.model.name_or_path or type(self.model).__name__)


def loaded_model(model: object, tokenizer: PreTrainedTokenizerBase | None = None) -> LoadedModel:
    """Check a model that was handed over.

    Args:
        model: A transformers model, whole and in floating point.
        tokenizer: Its tokenizer; None reads the one that lies beside the model's weights.

    Raises:
        TypeError: It is no transformers model.
        ValueError: It holds adapters or quantized weights, or its tokenizer is not known.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"expected the name of a model, a folder, or a transformers model, got "
            f"{type(model).__name__}; of a PEFT model give what merge_and_unload() returns"
        )
    if has_adapters(model):
        raise ValueError(
            f"expected {type(model).__name__} without adapters, got LoRA layers in it; merge them "
            "(PEFT: merge_and_unload()) and ask for new ones with lora=Lora(...)"
        )
    odd = [name for name, p in model.named_parameters() if not p.is_floating_point()]
    if odd or getattr(model, "is_quantized", False):
        raise ValueError(
            f"expected weights in floating point, got a quantized {type(model).__name__}; load it "
            "with dtype=torch.bfloat16 or torch.float32"
        )
    if tokenizer is None:
        if not model.name_or_path:
            raise ValueError(
                f"expected a tokenizer with {type(model).__name__}, which was not read from a folder "
                "or the hub; pass tokenizer="
            )
        tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
    return LoadedModel(model, tokenizer)


def loaded_backbone(
    loaded: LoadedModel,
    *,
    dtype: Precision | None = None,
    gradient_checkpointing: bool = False,
    decoder_only: bool = False,
) -> Backbone:
    """Take over a loaded causal language model: freeze it and turn its dropout off.

    Args:
        loaded: Model and tokenizer; whoever handed them over no longer uses the model.
        dtype: Type of the weights; None keeps the model's.
        gradient_checkpointing: Recompute activations in the backward pass (in train mode only).
        decoder_only: Refuse encoders and encoder-decoders, which only labelers take.

    Raises:
        ValueError: The model suits no such role.
    """
    model, config = loaded.model, loaded.model.config
    refuse_classifier(loaded.name, config)
    if model.get_output_embeddings() is None:
        raise ValueError(
            f"expected a causal language model, got {type(model).__name__}, which writes no text; "
            "load it with AutoModelForCausalLM"
        )
    if decoder_only:
        require_decoder(loaded.name, config)
    if dtype is not None:
        cast_weights(model, resolve_dtype(dtype, model.device))
    freeze(model, gradient_checkpointing)
    rows = int(cast(nn.Linear, model.get_output_embeddings()).weight.shape[0])
    info = model_info(
        loaded.name,
        loaded.tokenizer,
        config,
        written_settings(model),
        rows,
        model.generation_config,
    )
    return Backbone(model, loaded.tokenizer, UNNAMED, info)


def freeze(model: PreTrainedModel, gradient_checkpointing: bool) -> None:
    """Freeze a model, in eval mode and without dropout.

    Args:
        model: Changed in place.
        gradient_checkpointing: Recompute activations in the backward pass; layers are then in train
            mode, where a dropout that was left on would act.
    """
    drop_dropout(model.config)
    keep_softcap(model)
    for module in model.modules():
        drop_dropout(module)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if gradient_checkpointing:
        recompute_activations(model)
    model.eval().requires_grad_(False)


def written_settings(model: PreTrainedModel) -> dict[str, Any]:
    """Return what config.json would say that the class does not: its defaults are not the model's."""
    settings: dict[str, Any] = model.config.to_diff_dict()
    return settings
