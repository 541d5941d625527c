"""A policy: a causal language model by name or in memory, cut into trunk and top.

Configs are checked against the annotations of constructors, so those hold what a config can say. Type
checkers are told of more (``PolicySource``) where jsonargparse does not look: in another module.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar, cast

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlaif_pl.engine.decoder_layers import decoder_of
from rlaif_pl.engine.runner import DecoderRunner, split
from rlaif_pl.engine.score import CappedHead
from rlaif_pl.models import prepare, suited
from rlaif_pl.models.adapters import Lora, clone, has_adapters, merged, shared_copy
from rlaif_pl.models.backbone import (
    Backbone,
    BackboneOptions,
    Precision,
    load_backbone,
    loaded_backbone,
)
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.device import computing_on
from rlaif_pl.models.export import save_policy
from rlaif_pl.models.model_info import UNNAMED, weights_digest
from rlaif_pl.models.suited import LoadedModel
from rlaif_pl.models.text_format import format_of
from rlaif_pl.text import Template

AnyModel = TypeVar("AnyModel", bound=CausalModel)


class Policy(CausalModel):
    """A causal language model that writes responses and can be trained to write others."""

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        trunk_layers: int = 0,
        lora: Lora | None = None,
        device: str = "auto",
        *,
        dtype: Precision | None = None,
        template: Template | None = None,
        seed: int = 0,
        frozen: bool = False,
        gradient_checkpointing: bool = False,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> Self:
        """Make a policy of a model by name or in memory.

        Args:
            model: ``smollm2-135m`` (embedded), a transformers folder, a hub name, or a loaded causal
                LM, which is taken over: its weights are frozen and its layers may be cut, so give
                ``copy.deepcopy(model)`` to go on using it by itself.
            tokenizer: Tokenizer of a loaded model; None reads the one beside the model's weights.
            trunk_layers: First layers that stay frozen and are shared by all roles made of this one.
            lora: Adapters on the layers above the trunk; None trains those layers whole.
            device: Where to put it: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:N``
                or ``mps``.
            dtype: Type of the frozen weights; None is float32, or what a loaded model has.
            template: How prompts and responses are written; None takes what the model's folder says it
                was trained with, or the default.
            seed: Seeds the adapters.
            frozen: For sampling and comparing only: nothing is trained, no adapters are made.
            gradient_checkpointing: Recompute layers in the backward pass: less memory, more time.
            revision: Branch, tag or commit of a hub model.
            trust_remote_code: Run Python code that comes with a hub model.

        Raises:
            OSError: There is no such model.
            TypeError: ``model`` is neither a name nor a transformers model.
            ValueError: The model suits no policy or cannot be cut there, or arguments contradict.
        """
        if frozen and lora is not None:
            raise ValueError(
                "expected lora only for a policy that is trained, got frozen=True; drop one"
            )
        given = suited.handed_over(model, tokenizer)
        options = BackboneOptions(
            str(model) if given is None else given.name,
            trunk_layers=trunk_layers,
            dtype=dtype or "float32",
            gradient_checkpointing=gradient_checkpointing,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        with computing_on(device) as place:
            if given is None:
                policy = load_policy(options, template)
            else:
                policy = taken_over(given, options, dtype, template)
            made = policy if frozen else for_role(policy, lora, seed)
        made.home = place
        return cast(Self, made.to(place))

    def identity(self) -> str:
        """Return what tells its weights from others' now; hashes them unless they are as loaded."""
        if self.fingerprint != UNNAMED and not any(p.requires_grad for p in self.parameters()):
            return self.fingerprint
        weights = [(name, p) for name, p in self.named_parameters()]
        return f"{self.config.model_type}@{weights_digest(weights, self.config.to_diff_dict())}"

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a plain transformers folder, adapters folded in; returns it."""
        return save_policy(folder, self)


def load_policy(options: BackboneOptions, template: Template | None = None) -> Policy:
    """Load a causal LM, frozen, as trunk and top.

    ``template`` says how prompts and responses are written; None takes what the model's folder says it
    was trained with, or the default. ``OSError``: there is no such model. ``ValueError``: it cannot be
    cut after ``trunk_layers`` layers, or is no decoder alone.
    """
    options.check_exists()
    backbone = load_backbone(options, decoder_only=True)
    found = format_of(options.name, options.revision, template=template)
    return cut(Policy, backbone, options, found.template, prepare.output_head(backbone.model))


def taken_over(
    given: LoadedModel, options: BackboneOptions, dtype: Precision | None, template: Template | None
) -> Policy:
    """Take over a causal LM that is in memory as ``load_policy`` loads one; see ``loaded_backbone``."""
    suited.refuse_classifier(given.name, given.model.config)
    if given.model.get_output_embeddings() is None:
        kind = type(given.model).__name__
        raise ValueError(
            f"expected a causal language model, got {kind}, which writes no text; load it with "
            "AutoModelForCausalLM"
        )
    taken = loaded_backbone(given, dtype, options.gradient_checkpointing)
    found = format_of(given.source, template=template)
    return cut(Policy, taken, options, found.template, prepare.output_head(taken.model))


def cut(
    kind: type[AnyModel],
    backbone: Backbone,
    options: BackboneOptions,
    template: Template,
    head: nn.Linear | CappedHead,
) -> AnyModel:
    """Cut a loaded model into trunk and top; it must not be used as a whole afterwards."""
    config = copy.deepcopy(backbone.model.config)
    prepare.note_tying(config, backbone.model)
    trunk, top = split(decoder_of(backbone.model), options.trunk_layers)
    policy = kind(trunk, top, head, backbone.tokenizer, template, config, backbone.info)
    policy.fingerprint, policy.base = backbone.fingerprint, options.name
    # A name says nothing of the layers left out, nor of what was done to a model in memory.
    policy.rests_on_base = options.num_layers is None and backbone.fingerprint != UNNAMED
    return policy


def for_role(policy: AnyModel, lora: Lora | None, seed: int, *, writes: bool = True) -> AnyModel:
    """Return a trainable copy of a policy that shares its trunk (and, with LoRA, its weights).

    What is trained is float32. Without trunk and LoRA the copy has its own input and output embeddings,
    tied where they were tied; a role that gives tokens no probability (not ``writes``) keeps the frozen
    output embedding, which would never get a gradient, and DDP refuses that.
    """
    top = clone(policy.top, lora, seed)
    if lora is not None and lora.target_modules == "all-linear":
        suited.warn_of_experts(policy.top.decoder, policy.base)
    for parameter in top.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    head = policy.unembedding
    if writes and lora is None and policy.trunk is None:
        head = _own_head(policy, top).requires_grad_(True).float()
    twin = _twin(policy, top, head)
    twin.rests_on_base = policy.rests_on_base and lora is not None
    twin.lora, twin.started_from = lora, policy.fingerprint
    return twin


def frozen_copy(policy: AnyModel) -> AnyModel:
    """Return a policy as it is now, frozen, on the same trunk: what other roles start from.

    Layers with something to train are copied, adapters folded in: training them changes nothing here.
    """
    adapted = has_adapters(policy.top)
    if not adapted and not any(p.requires_grad for p in policy.parameters()):
        twin = _twin(policy, shared_copy(policy.top), policy.unembedding)
        twin.fingerprint = policy.fingerprint
    else:
        top = merged(policy.top)
        head = policy.unembedding
        if adapted:  # as a folder of these weights would be loaded
            prepare.cast_weights(top, head.weight.dtype)
        if any(p.requires_grad for p in head.parameters()):
            head = _own_head(policy, top)
        twin = _twin(policy, top.requires_grad_(False), head.requires_grad_(False))
        twin.rests_on_base = False
    twin.lora = policy.lora
    return twin


def _own_head(policy: CausalModel, top: DecoderRunner) -> nn.Linear | CappedHead:
    """Copy a policy's output embedding for a copy of its top, tied to that where the two are tied."""
    head = copy.deepcopy(policy.unembedding)
    if policy.is_tied:
        linear = head.linear if isinstance(head, CappedHead) else head
        linear.weight = cast(nn.Embedding, top.decoder.get_input_embeddings()).weight
    return head


def _twin(policy: AnyModel, top: DecoderRunner, head: nn.Linear | CappedHead) -> AnyModel:
    """Make another model on a policy's trunk, read and written the same way."""
    shared = (policy.tokenizer, policy.template, policy.config, policy.info)
    twin = type(policy)(policy.trunk, top, head, *shared)
    twin.base, twin.home = policy.base, policy.home
    twin.rests_on_base = policy.rests_on_base
    return twin


def same_trunk(first: DecoderRunner | None, second: DecoderRunner | None) -> bool:
    """Whether two trunks hold equal weights of one type, so that one can stand for both."""
    if first is None or second is None or first.num_layers != second.num_layers:
        return False
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[k].dtype == theirs[k].dtype
        and torch.equal(ours[k], theirs[k].to(ours[k].device))  # a reward may be elsewhere yet
        for k in ours
    )


if TYPE_CHECKING:
    PolicySource = BackboneOptions | Policy
else:
    PolicySource = BackboneOptions


def start_of(source: PolicySource, template: Template | None) -> Policy:
    """Return what a role starts from, frozen: loaded by name, or a copy of a policy as it is now."""
    _check_kind(source)
    if isinstance(source, BackboneOptions):
        return load_policy(source, template)
    _check_template(source, template)
    return frozen_copy(source)


def to_train(
    source: PolicySource, lora: Lora | None, template: Template | None, seed: int
) -> Policy:
    """Return the policy that is trained: one made of a name or of a frozen policy, or the given itself.

    ``ValueError``: the model suits no policy; or one that has weights to train comes with ``lora``, or
    with another template than its own.
    """
    _check_kind(source)
    if isinstance(source, BackboneOptions) or not any(p.requires_grad for p in source.parameters()):
        return for_role(start_of(source, template), lora, seed)
    _check_template(source, template)
    if lora not in (None, source.lora):
        raise ValueError(
            f"expected lora=None with a policy that has weights to train, got {lora}; give it to "
            "Policy.from_pretrained, which makes the adapters"
        )
    return source


def _check_kind(source: object) -> None:
    """Refuse (TypeError) what is neither a policy nor the options of one, such as a name."""
    if not isinstance(source, BackboneOptions | Policy):
        kind = repr(source) if isinstance(source, str) else type(source).__name__
        raise TypeError(
            f"expected a Policy, got {kind}; make one of a name or of a model of transformers with "
            "Policy.from_pretrained (a reward: RewardModel.from_pretrained)"
        )


def _check_template(policy: CausalModel, template: Template | None) -> None:
    """Refuse (ValueError) a template beside a policy that has another."""
    if template not in (None, policy.template):
        raise ValueError(
            f"expected the policy's own template {policy.template}, got {template}; give it to "
            "Policy.from_pretrained, or leave it out here"
        )
