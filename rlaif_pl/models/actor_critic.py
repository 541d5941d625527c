"""Policy, frozen reference and value network over one trunk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from rlaif_pl.models.adapters import Lora
from rlaif_pl.models.encoding import PrefixBatch
from rlaif_pl.models.export import save_policy
from rlaif_pl.models.policy import BackboneOptions, for_role, load_policy
from rlaif_pl.models.shared_prefix import States, run
from rlaif_pl.text import Template

ValueNetwork = Literal["separate", "reference_features"]


class ActorCritic(nn.Module):
    """Three roles that start from one SFT checkpoint and share its frozen trunk.

    With LoRA the policy and the value network hold adapters over the reference's own weights, so the
    reference costs no memory of its own and no adapter is ever switched: each role is a module.

    Args:
        backbone: The SFT policy: what all three roles start from.
        lora: Adapters of policy and value network; None trains copies of all layers above the trunk.
        template: How prompts and responses are written; the SFT policy's.
        value_network: ``separate`` is a network of its own that starts from the SFT policy (the
            paper's); ``reference_features`` is a head on the frozen reference's last states, which
            costs no further pass.
        seed: Seeds adapters and head.
    """

    def __init__(
        self,
        backbone: BackboneOptions,
        *,
        lora: Lora | None = None,
        template: Template = Template(),  # noqa: B008 - frozen
        value_network: ValueNetwork = "separate",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.reference = load_policy(backbone, template)
        self.policy = for_role(self.reference, lora, seed)
        critic = None
        if value_network == "separate":
            critic = for_role(self.reference, lora, seed + 1, writes=False).top
        self.critic = critic
        width = int(self.reference.config.get_text_config().hidden_size)
        self.value_head = nn.Linear(width, 1)
        nn.init.zeros_(self.value_head.weight)  # values start at 0: the first returns set the scale
        nn.init.zeros_(self.value_head.bias)

    @torch.no_grad()
    def reference_pass(
        self, batch: PrefixBatch, below: States | None, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """Run the frozen reference once.

        Args:
            batch: Rollout.
            below: Trunk states of the batch, where they are known.
            temperature: Divides the logits, as for the policy.

        Returns:
            Log-probabilities of the response tokens ``(N, R)`` and last states ``(N, 1 + R, D)``.
        """
        hidden = self.reference.hidden(batch, below)
        return self.reference.logprobs_of(hidden, batch, temperature), hidden

    def values(self, batch: PrefixBatch, below: States | None, features: Tensor) -> Tensor:
        """Estimate the return of each state, before each token and after the last. ``(N, 1 + R)``.

        Args:
            batch: Rollout.
            below: Trunk states of the batch, where they are known.
            features: Last states of the reference, from ``reference_pass``.
        """
        if self.critic is not None:
            below = self.policy.trunk_states(batch) if below is None else below
            features = run(self.critic, batch, below, self.policy.share_prefix).continuation
        # Unit variance over sqrt(D): a step of Adam moves every weight by the learning rate, and on
        # raw states of norm far above 1 that alone would swing the values by more than the returns.
        width = features.shape[-1]
        scaled = nn.functional.layer_norm(features.float(), (width,)) / math.sqrt(width)
        values: Tensor = self.value_head(scaled).squeeze(-1)
        return values

    def save(self, folder: str | Path) -> Path:
        """Write the policy as a plain transformers folder."""
        return save_policy(folder, self.policy)
