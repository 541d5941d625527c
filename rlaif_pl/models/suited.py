"""Whether a model suits a role, by its config alone: told before any weight is read."""

from __future__ import annotations

import warnings
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

CLASSIFIER = "ForSequenceClassification"
LABELERS = "the likelihood labeler and other labelers of a LocalBackend take those"


def require_decoder(name: str, config: PreTrainedConfig) -> None:
    """Refuse what cannot be a policy or a reward model: those are decoders that look back only.

    Raises:
        ValueError: It is an encoder-decoder, or an encoder whose tokens see those after them.
    """
    kind = type(config).__name__.removesuffix("Config")
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"expected a decoder-only language model for a policy or reward model, got {name}, an "
            f"encoder-decoder ({kind}); {LABELERS}: name a decoder-only model here"
        )
    sees_all = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if sees_all and not getattr(config, "is_decoder", False):
        raise ValueError(
            f"expected a decoder-only language model for a policy or reward model, got {name}, an "
            f"encoder ({kind}) whose tokens see those after them; name a decoder-only model"
        )


def refuse_classifier(name: str, config: PreTrainedConfig) -> None:
    """Refuse a classifier where a language model is meant: its output embedding was never trained.

    Raises:
        ValueError: The config's ``architectures`` names a sequence classifier.
    """
    kinds = [kind for kind in config.architectures or [] if kind.endswith(CLASSIFIER)]
    if kinds:
        raise ValueError(
            f"expected a language model in {name}, got a reward folder ({kinds[0]} in its "
            "config.json), which writes no text; name the policy that it was trained from"
        )


def classifier_named(name: str, revision: str | None = None) -> bool:
    """Whether a folder's or hub model's config.json names a sequence classifier; no weight is read.

    Args:
        name: Folder or hub name; what cannot be found names nothing.
        revision: Branch, tag or commit of a hub model.
    """
    try:
        written: dict[str, Any] = PreTrainedConfig.get_config_dict(name, revision=revision)[0]
    except OSError:
        return False  # whoever loads it says what is missing
    return any(str(kind).endswith(CLASSIFIER) for kind in written.get("architectures") or [])


def refuse_incomplete(
    name: str, model: PreTrainedModel, missing: set[str], unexpected: set[str]
) -> None:
    """Refuse files that lack weights: transformers would fill random ones in.

    Raises:
        ValueError: Weights are missing; the first are named, beside those that no place takes.
    """
    if not missing:
        return
    stray = f", found {sorted(unexpected)[:5]} in their place" if unexpected else ""
    raise ValueError(
        f"expected every weight of {type(model).__name__} in {name}, missing {sorted(missing)[:5]}"
        f"{stray}; the files belong to another architecture, or were saved without their head: save "
        "them whole (with PEFT, name the head in modules_to_save and merge)"
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


def note_tying(config: PreTrainedConfig, model: PreTrainedModel) -> None:
    """Let a config say of the embeddings what the weights are: one matrix, or two.

    A folder may hold two different matrices beside ``tie_word_embeddings: true``. transformers loads
    both; whoever goes by the flag afterwards would put one in the place of the other.
    """
    output = model.get_output_embeddings()
    if output is None:
        return
    is_tied = output.weight is model.get_input_embeddings().weight
    for each in (config, config.get_text_config()):
        each.tie_word_embeddings = is_tied
