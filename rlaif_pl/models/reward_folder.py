"""Reward models as transformers keeps them: sequence classifiers with one label."""

from __future__ import annotations

import copy
from typing import Any, Literal, NamedTuple, cast

from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from rlaif_pl.engine.decoder_layers import decoder_of
from rlaif_pl.engine.runner import split
from rlaif_pl.models.backbone import (
    EMBEDDED,
    BackboneOptions,
    Precision,
    load_config,
    read_weights,
    resolve_dtype,
)
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.loaded import LoadedModel
from rlaif_pl.models.model_info import model_info
from rlaif_pl.models.suited import (
    CLASSIFIER,
    cast_weights,
    classifier_named,
    freeze,
    require_decoder,
)
from rlaif_pl.models.text_format import format_of
from rlaif_pl.text import Template

Pooling = Literal["eos", "mean"]


def is_reward_folder(name: str, revision: str | None = None) -> bool:
    """Whether a folder or hub model is a sequence classifier, as reward models are saved."""
    return name != EMBEDDED and classifier_named(name, revision)


def is_classifier(model: object) -> bool:
    """Whether a loaded model is a sequence classifier."""
    return isinstance(model, PreTrainedModel) and type(model).__name__.endswith(CLASSIFIER)


class LoadedReward(NamedTuple):
    """A sequence classifier with one label, taken apart."""

    model: CausalModel  # the decoder; its output head is the score head and not used for tokens
    weight: Tensor  # weight of the head. `(1, D)` float32
    shift: float  # what is subtracted from each score
    pooling: Pooling  # how the head reads the states
    max_response_tokens: int | None  # where it cuts responses; None where nothing says


def load_reward_folder(
    options: BackboneOptions,
    template: Template | None = None,
    max_response_tokens: int | None = None,
) -> LoadedReward:
    """Load a reward model saved as a one-label sequence classifier.

    Args:
        options: Which one, and how it is cut.
        template: How prompts and responses are written; None takes what it was trained with.
        max_response_tokens: Where responses are cut; None takes that of its training.

    Raises:
        ValueError: ``num_layers`` is set, the folder holds another number of scores than one, its
            files lack weights, or it is no decoder.
    """
    if options.num_layers is not None:
        raise ValueError(
            f"expected num_layers=null with the reward folder {options.name}, got "
            f"{options.num_layers}; its head reads the last layer"
        )
    config, tokenizer = load_config(options)
    require_decoder(options.name, config)
    dtype = resolve_dtype(options.dtype)
    model = read_weights(AutoModelForSequenceClassification, options, config, dtype)
    loaded = LoadedModel(model, tokenizer)
    written, _ = PreTrainedConfig.get_config_dict(options.name, revision=options.revision)
    return loaded_reward(loaded, options, None, template, max_response_tokens, written=written)


def loaded_reward(
    loaded: LoadedModel,
    options: BackboneOptions,
    dtype: Precision | None,
    template: Template | None = None,
    max_response_tokens: int | None = None,
    *,
    written: dict[str, Any] | None = None,
) -> LoadedReward:
    """Take over a classifier that is in memory; it must not be used as a whole afterwards.

    Args:
        loaded: Model and tokenizer.
        options: How it is cut, and what it is called.
        dtype: Type of the weights; None keeps the model's.
        template: See ``load_reward_folder``.
        max_response_tokens: See ``load_reward_folder``.
        written: Its config.json as it is written; None takes what its class does not say already.

    Raises:
        ValueError: It gives another number of scores than one, or is no decoder.
    """
    model = loaded.model
    require_decoder(loaded.name, model.config)
    _one_score(loaded.name, model)
    if dtype is not None:
        cast_weights(model, resolve_dtype(dtype, model.device))
    freeze(model, options.gradient_checkpointing)
    text_format = format_of(
        loaded.source, options.revision, template=template, max_response_tokens=max_response_tokens
    )
    head, tokenizer = cast(nn.Linear, model.score), loaded.tokenizer
    config = copy.deepcopy(model.config)
    rows = len(cast(Tensor, model.get_input_embeddings().weight))
    known = config.to_diff_dict() if written is None else written
    info = model_info(options.name, tokenizer, config, known, rows)
    trunk, top = split(decoder_of(model), options.trunk_layers)
    policy = CausalModel(trunk, top, head, tokenizer, text_format.template, config, info)
    policy.base = options.name
    return LoadedReward(
        policy,
        head.weight.detach().float(),
        float(getattr(config, "reward_shift", 0.0)),
        cast(Pooling, getattr(config, "reward_pooling", "eos")),
        text_format.max_response_tokens,
    )


def _one_score(name: str, model: PreTrainedModel) -> None:
    """Refuse a classifier whose head is not one linear score without a bias."""
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear) or head.out_features != 1:
        raise ValueError(
            f"expected {name} to hold one score a text (score.weight with one row; num_labels: 1 in "
            f"its config.json), got {head}; name a reward model with one score"
        )
    if head.bias is not None:
        raise ValueError(
            f"expected {name} to hold a score without a bias, got score.bias; subtract it by "
            "reward_shift in its config.json and save the head without it"
        )
