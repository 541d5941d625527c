"""What models are made of: a name, as configs say it, or in Python a model that is there already.

Configs are checked against the annotations of constructors, so those hold what a config can say;
type checkers are told of more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlaif_pl.models.adapters import Lora
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.policy import (
    BackboneOptions,
    Policy,
    for_role,
    frozen_copy,
    load_policy,
)
from rlaif_pl.models.reward_folder import LoadedReward
from rlaif_pl.text import Template

if TYPE_CHECKING:
    PolicySource = BackboneOptions | Policy
    RewardSource = BackboneOptions | Policy | LoadedReward
else:
    PolicySource = RewardSource = BackboneOptions


def start_of(source: PolicySource, template: Template | None) -> Policy:
    """Return what a role starts from, frozen: loaded by name, or a copy of a policy as it is now.

    Raises:
        OSError: There is no such model.
        ValueError: The model suits no policy, or a policy comes with another template than its own.
    """
    if isinstance(source, BackboneOptions):
        return load_policy(source, template)
    check_template(source, template)
    return frozen_copy(source)


def to_train(
    source: PolicySource, lora: Lora | None, template: Template | None, seed: int
) -> Policy:
    """Return the policy that is trained: one made of a name, or the given one itself.

    Args:
        source: Model to start from; a policy that is frozen is left so, and a copy of it trained.
        lora: Adapters of a policy that is made here; None trains the layers above the trunk whole.
        template: How prompts and responses are written; None takes the model's own.
        seed: Seeds the adapters.

    Raises:
        OSError: There is no such model.
        ValueError: The model suits no policy; or a policy with weights to train comes with ``lora``, or
            with another template than its own.
    """
    if isinstance(source, BackboneOptions) or not any(p.requires_grad for p in source.parameters()):
        return for_role(start_of(source, template), lora, seed)
    check_template(source, template)
    if lora not in (None, source.lora):
        raise ValueError(
            f"expected lora=None with a policy that has weights to train, got {lora}; give it to "
            "Policy.from_pretrained, which makes the adapters"
        )
    return source


def check_cut(policy: CausalModel, trunk_layers: int) -> None:
    """Refuse another cut beside a policy that is cut already.

    Raises:
        ValueError: ``trunk_layers`` is neither 0 nor the policy's.
    """
    own = 0 if policy.trunk is None else policy.trunk.num_layers
    if trunk_layers not in (0, own):
        raise ValueError(
            f"expected trunk_layers to be the policy's own {own}, got {trunk_layers}; give it to "
            "Policy.from_pretrained, or leave it out here"
        )


def check_template(policy: CausalModel, template: Template | None) -> None:
    """Refuse a template beside a policy that has another.

    Raises:
        ValueError: It is neither None nor the policy's.
    """
    if template not in (None, policy.template):
        raise ValueError(
            f"expected the policy's own template {policy.template}, got {template}; give it to "
            "Policy.from_pretrained, or leave it out here"
        )
