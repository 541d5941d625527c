"""Models: loading and cutting backbones, and the roles made of them."""

from rlaif_pl.models.actor_critic import ActorCritic
from rlaif_pl.models.adapters import Lora
from rlaif_pl.models.policy import BackboneOptions, Policy, load_policy
from rlaif_pl.models.reward import RewardModel

__all__ = ["ActorCritic", "BackboneOptions", "Lora", "Policy", "RewardModel", "load_policy"]
