"""Reward models as transformers keeps them: sequence classifiers with one label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from rlaif_pl.models import backbone
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.policy import Policy, cut
from rlaif_pl.models.suited import CLASSIFIER, LoadedModel, require_decoder
from rlaif_pl.models.text_format import format_of
from rlaif_pl.text import Template

Pooling = Literal["eos", "mean"]


def is_reward_folder(name: str, revision: str | None = None) -> bool:
    """Whether config.json of a folder or hub model, where there is one, names a classifier."""
    if name == backbone.EMBEDDED:
        return False
    try:
        written, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
    except OSError:
        return False  # whoever loads it says what is missing
    return any(str(kind).endswith(CLASSIFIER) for kind in written.get("architectures") or [])


class LoadedReward(NamedTuple):
    """A sequence classifier with one label, taken apart."""

    model: CausalModel  # the decoder; its output head is the score head and not used for tokens
    weight: Tensor  # weight of the head. `(1, D)` float32
    shift: float  # what is subtracted from each score
    pooling: Pooling  # how the head reads the states
    max_response_tokens: int | None  # where it cuts responses; None where nothing says


if TYPE_CHECKING:  # see models.policy
    RewardSource = backbone.BackboneOptions | Policy | LoadedReward
else:
    RewardSource = backbone.BackboneOptions


def load_reward_folder(
    options: backbone.BackboneOptions,
    template: Template | None = None,
    max_response_tokens: int | None = None,
) -> LoadedReward:
    """Load a one-label sequence classifier; what is None is taken from its training.

    ``ValueError``: ``num_layers`` is set, the folder holds another number of scores than one, its files
    lack weights, or it is no decoder.
    """
    if options.num_layers is not None:
        raise ValueError(
            f"expected num_layers=null with the reward folder {options.name}, got "
            f"{options.num_layers}; its head reads the last layer"
        )
    config, tokenizer = backbone.load_config(options)
    require_decoder(options.name, config)
    dtype = backbone.resolve_dtype(options.dtype)
    model = backbone.read_weights(AutoModelForSequenceClassification, options, config, dtype)
    loaded = LoadedModel(model, tokenizer)
    written, _ = PreTrainedConfig.get_config_dict(options.name, revision=options.revision)
    return loaded_reward(loaded, options, None, template, max_response_tokens, written)


def loaded_reward(
    loaded: LoadedModel,
    options: backbone.BackboneOptions,
    dtype: backbone.Precision | None,
    template: Template | None = None,
    max_response_tokens: int | None = None,
    written: dict[str, Any] | None = None,
) -> LoadedReward:
    """Take over a classifier that is in memory; see ``loaded_backbone`` and ``load_reward_folder``."""
    require_decoder(loaded.name, loaded.model.config)
    head = _one_score(loaded.name, loaded.model)  # refused before its weights are changed
    taken = backbone.loaded_backbone(loaded, dtype, options.gradient_checkpointing, written)
    text_format = format_of(
        loaded.source, options.revision, template=template, max_response_tokens=max_response_tokens
    )
    policy = cut(CausalModel, taken, options, text_format.template, head)
    return LoadedReward(
        policy,
        head.weight.detach().float(),
        float(getattr(policy.config, "reward_shift", 0.0)),
        cast(Pooling, getattr(policy.config, "reward_pooling", "eos")),
        text_format.max_response_tokens,
    )


def _one_score(name: str, model: PreTrainedModel) -> nn.Linear:
    """Return a classifier's head; ``ValueError`` where it is not one linear score without a bias."""
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
    return head
