"""Load a backbone as a policy: trunk, top, output head, tokenizer and template."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlaif_pl.engine.decoder_layers import decoder_of, split
from rlaif_pl.engine.runner import DecoderRunner
from rlaif_pl.models.adapters import Lora, clone
from rlaif_pl.models.backbone import (
    EMBEDDED,
    Backbone,
    CappedHead,
    Precision,
    load_backbone,
    output_head,
    quiet_loading,
    resolve_dtype,
)
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.model_info import model_info
from rlaif_pl.models.suited import (
    classifier_named,
    note_tying,
    refuse_incomplete,
    require_decoder,
    warn_of_experts,
)
from rlaif_pl.text import Template

Pooling = Literal["eos", "mean"]


@dataclass(frozen=True)
class BackboneOptions:
    """Which model to load and how it is cut.

    Attributes:
        name: ``smollm2-135m`` (embedded), a transformers folder, or a hub name.
        num_layers: Keep only the first layers of the model; None keeps all.
        trunk_layers: First layers that stay frozen and can be shared by several roles; 0 for none.
        dtype: Type of the frozen weights; ``auto`` is bfloat16 where the model's device computes it
            fast. Weights that are trained are float32 whatever this says, and so is the reference of
            a policy that is trained whole.
        share_prefix: Compute a prompt once for all its responses and pad nothing (exact), where the
            architecture allows it; see ``rlaif_pl.engine``.
        gradient_checkpointing: Recompute layers in the backward pass: less memory, more time.
        revision: Branch, tag or commit of a hub model.
        trust_remote_code: Run Python code that comes with a hub model.
        made_by: Command that makes the folder; named in the error where the folder is absent.
    """

    name: str = EMBEDDED
    num_layers: int | None = None
    trunk_layers: int = 0
    dtype: Precision = "float32"
    share_prefix: bool = True
    gradient_checkpointing: bool = False
    revision: str | None = None
    trust_remote_code: bool = False
    made_by: str | None = None

    def check_exists(self) -> None:
        """Refuse a folder that another command should have made.

        Raises:
            FileNotFoundError: ``made_by`` is given and ``name`` is not a folder.
        """
        if self.made_by is not None and not Path(self.name).is_dir():
            raise FileNotFoundError(
                f"expected a model folder at {self.name}, there is none; make it with: {self.made_by}"
            )


def load_policy(options: BackboneOptions, template: Template) -> CausalModel:
    """Load a causal LM, frozen, as trunk and top.

    Raises:
        OSError: There is no such model.
        ValueError: The model cannot be cut after ``trunk_layers`` layers, or is no decoder alone.
    """
    options.check_exists()
    backbone = load_backbone(
        options.name,
        num_layers=options.num_layers,
        dtype=options.dtype,
        revision=options.revision,
        trust_remote_code=options.trust_remote_code,
        gradient_checkpointing=options.gradient_checkpointing,
        decoder_only=True,
    )
    return as_policy(backbone, options, template)


def as_policy(backbone: Backbone, options: BackboneOptions, template: Template) -> CausalModel:
    """Cut a loaded causal LM; it must not be used as a whole afterwards."""
    head = output_head(backbone.model)
    config = copy.deepcopy(backbone.model.config)
    note_tying(config, backbone.model)
    trunk, top = split(decoder_of(backbone.model), options.trunk_layers)
    policy = CausalModel(trunk, top, head, backbone.tokenizer, template, config, backbone.info)
    policy.share_prefix = options.share_prefix
    policy.fingerprint, policy.base = backbone.fingerprint, options.name
    return policy


def for_role(
    policy: CausalModel, lora: Lora | None, seed: int, *, writes: bool = True
) -> CausalModel:
    """Return a trainable copy of a policy that shares its trunk (and, with LoRA, its weights).

    What is trained is float32. Without trunk and LoRA the copy has its own input and output
    embeddings, tied where they were tied.

    Args:
        policy: What to start from; left as it is.
        lora: Adapters on the top; None copies and trains the top whole.
        seed: Seeds the adapters.
        writes: Whether the role gives tokens a probability. One that does not (a reward, a value)
            keeps the frozen output embedding: trained, it would never get a gradient, which DDP
            refuses.
    """
    top = clone(policy.top, lora, seed)
    if lora is not None and lora.target_modules == "all-linear":
        warn_of_experts(policy.top.decoder, policy.base)
    for parameter in top.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    head = policy.unembedding
    if writes and lora is None and policy.trunk is None:
        head = copy.deepcopy(head).requires_grad_(True).float()
        if policy.is_tied:
            linear = head.linear if isinstance(head, CappedHead) else head
            linear.weight = cast(nn.Embedding, top.decoder.get_input_embeddings()).weight
    shared = (policy.tokenizer, policy.template, policy.config, policy.info)
    twin = CausalModel(policy.trunk, top, head, *shared)
    twin.share_prefix, twin.base = policy.share_prefix, policy.base
    return twin


def is_reward_folder(name: str, revision: str | None = None) -> bool:
    """Whether a folder or hub model is a sequence classifier, as reward models are saved."""
    return name != EMBEDDED and classifier_named(name, revision)


def load_reward_folder(
    options: BackboneOptions, template: Template
) -> tuple[CausalModel, torch.Tensor, float, Pooling]:
    """Load a reward model saved as a one-label sequence classifier.

    Returns:
        The decoder as a policy (its output head is the score head and not used for tokens), the
        head's weight ``(1, D)``, the shift to subtract, and how the head reads the states.

    Raises:
        ValueError: ``num_layers`` is set, the folder holds another number of scores than one, its
            files lack weights, or it is no decoder.
    """
    if options.num_layers is not None:
        raise ValueError(
            f"expected num_layers=null with the reward folder {options.name}, got "
            f"{options.num_layers}; its head reads the last layer"
        )
    model, tokenizer = _load_classifier(options)
    if options.gradient_checkpointing:
        old = model.gradient_checkpointing_enable  # transformers renames it to activation_
        getattr(model, "activation_checkpointing_enable", old)({"use_reentrant": False})
    model.eval().requires_grad_(False)
    head = cast(nn.Linear, model.score)
    config = copy.deepcopy(model.config)
    written, _ = PreTrainedConfig.get_config_dict(options.name)
    rows = len(cast(torch.Tensor, model.get_input_embeddings().weight))
    trunk, top = split(decoder_of(model), options.trunk_layers)
    info = model_info(options.name, tokenizer, config, written, rows)
    policy = CausalModel(trunk, top, head, tokenizer, template, config, info)
    policy.share_prefix, policy.base = options.share_prefix, options.name
    pooling = cast(Pooling, getattr(config, "reward_pooling", "eos"))
    shift = float(getattr(config, "reward_shift", 0.0))
    return policy, head.weight.detach().float(), shift, pooling


def _load_classifier(
    options: BackboneOptions,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read a classifier whose one score is in its files."""
    name = options.name
    source = {"revision": options.revision, "trust_remote_code": options.trust_remote_code}
    written = AutoConfig.from_pretrained(name, **source)
    require_decoder(name, written)
    with quiet_loading():
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=resolve_dtype(options.dtype), output_loading_info=True, **source
        )
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
    refuse_incomplete(name, model, info["missing_keys"], info["unexpected_keys"])
    return model, AutoTokenizer.from_pretrained(name, **source)


def same_trunk(first: DecoderRunner | None, second: DecoderRunner | None) -> bool:
    """Whether two trunks hold equal weights of one type, so that one can stand for both."""
    if first is None or second is None or first.num_layers != second.num_layers:
        return False
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[k].dtype == theirs[k].dtype and torch.equal(ours[k], theirs[k]) for k in ours
    )
