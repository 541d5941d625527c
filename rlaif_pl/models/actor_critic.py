"""Policy, frozen reference and value network over one trunk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from rlaif_pl.engine.response_batch import ResponseBatch, states_before
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.engine.score import Drawer, TokenLogprobs
from rlaif_pl.errors import one_of
from rlaif_pl.models.adapters import Lora
from rlaif_pl.models.backbone import BackboneOptions
from rlaif_pl.models.device import widened
from rlaif_pl.models.export import save_policy
from rlaif_pl.models.policy import Policy, PolicySource, for_role, start_of
from rlaif_pl.models.scalar_head import ScalarHead
from rlaif_pl.text import Template

ValueNetwork = Literal["separate", "adapter", "shared_trunk", "reference_features", "none"]


class Evaluation(NamedTuple):
    """What policy and value network say about sampled responses."""

    tokens: TokenLogprobs
    values: Tensor | None  # (N, R) before each token; None without network


class ActorCritic(nn.Module):
    """Three roles that start from one SFT checkpoint and share its frozen trunk.

    With LoRA the policy holds adapters over the reference's own weights, so the reference costs no
    memory of its own and no adapter is ever switched: each role is a module. Without, the policy's
    layers are float32 copies, and so the reference's are float32 too: both give the same numbers
    before the first step, in any precision of the trainer.

    Args:
        backbone: The SFT policy: what all three roles start from. In Python also a ``Policy``, which is
            left as it is: reference and policy are copies on its trunk.
        lora: Adapters of the policy, and of the value network where it has some; None trains copies
            of all layers above the trunk.
        template: How prompts and responses are written; None takes what the backbone was trained with
            (its folder says so, a ``Policy`` has one of its own), or the default.
        value_network: ``separate`` is a copy of all layers above the trunk that starts from the SFT
            policy (with ``trunk_layers=0``, the paper's); ``adapter`` the same with adapters of its
            own over shared weights, for which ``lora`` is needed; ``shared_trunk`` a head on the
            policy's own last states, so the value loss trains the policy's layers too;
            ``reference_features`` a head on the frozen reference's last states, which costs no
            further pass; ``none`` leaves it out. None takes ``adapter`` with ``lora`` and
            ``separate`` without.
        seed: Seeds adapters and head.

    Raises:
        ValueError: ``adapter`` without ``lora``, or another value network than these.
    """

    def __init__(
        self,
        backbone: PolicySource,
        *,
        lora: Lora | None = None,
        template: Template | None = None,
        value_network: ValueNetwork | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if value_network is None:
            value_network = "separate" if lora is None else "adapter"
        one_of(ValueNetwork, value_network=value_network)
        if value_network == "adapter" and lora is None:
            raise ValueError(
                "expected lora with value_network=adapter, got none; set lora, or take "
                "value_network=separate for a copy that is trained whole"
            )
        self.value_network: ValueNetwork = value_network
        self.is_given = not isinstance(backbone, BackboneOptions)  # no config can name it
        self.reference = start_of(backbone, template)
        self.policy = for_role(self.reference, lora, seed)
        if lora is None:  # as the policy is: in other types the KL would not start at 0
            self.reference.top.float()
            if self.reference.trunk is None:
                self.reference.unembedding.float()
        self.critic = None
        if value_network in ("separate", "adapter"):
            own = lora if value_network == "adapter" else None
            self.critic = for_role(self.reference, own, seed + 1, writes=False).top
        self.reference.top.follow(self.policy.top)
        self.value_head: ScalarHead | None = None
        if value_network != "none":
            self.value_head = ScalarHead(self.reference.width)
            nn.init.zeros_(self.value_head.weight)  # start at 0: the first returns set the scale
            nn.init.zeros_(self.value_head.bias)

    def trunk_states(self, batch: ResponseBatch) -> Tensor | None:
        """Run the trunk that all roles share; None where there is none. ``(T, D)``."""
        return self.policy.trunk_states(batch)

    def logprobs(
        self, batch: ResponseBatch, below: Tensor | None, params: SamplingParams
    ) -> Tensor:
        """Log-probability of each response token by the policy; see ``CausalModel.logprobs``."""
        return self.policy.logprobs(batch, below, params)

    @torch.no_grad()
    def reference_pass(
        self, batch: ResponseBatch, below: Tensor | None, params: SamplingParams
    ) -> tuple[Tensor, Tensor]:
        """Run the frozen reference once; with filters the policy, too, which says what both score over.

        Log-probabilities of the response tokens ``(N, R)`` and last states before them ``(tokens, D)``.
        """
        hidden = self.reference.hidden(batch, below)
        drawer = None
        if params.filters:
            drawer = Drawer(self.policy.hidden(batch, below), self.policy.unembedding)
        found = self.reference.token_logprobs(hidden, batch, params, drawn_from=drawer)
        return found.logprobs, hidden

    def evaluate(
        self,
        batch: ResponseBatch,
        below: Tensor | None,
        features: Tensor | None,
        params: SamplingParams,
        *,
        entropy_gradient: bool = False,
    ) -> Evaluation:
        """Run policy and value network once, with gradients; see ``CausalModel.token_logprobs``.

        ``below`` are the trunk states of ``batch.inputs``, where they are known; ``features`` the last
        states of ``reference_pass``, which only ``reference_features`` reads.
        """
        below = self.policy.trunk_states(batch.inputs) if below is None else below
        hidden = self.policy.hidden(batch, below)
        tokens = self.policy.token_logprobs(
            hidden, batch, params, entropy_gradient=entropy_gradient
        )
        if self.value_network == "none":
            return Evaluation(tokens, None)
        features = hidden if self.value_network == "shared_trunk" else features
        return Evaluation(tokens, self.values(batch, below, features))

    def values(self, batch: ResponseBatch, below: Tensor | None, features: Tensor | None) -> Tensor:
        """Estimate the return of the state before each response token. ``(N, R)`` float32.

        The head reads ``features`` ``(tokens, D)``, last states of the reference or of the policy, but
        where the value network has layers of its own. ``ValueError``: there is none, or no features.
        """
        if self.value_head is None:
            raise ValueError("expected a value network, got value_network=none; it gives no values")
        if self.critic is not None:
            below = self.policy.trunk_states(batch.inputs) if below is None else below
            features = states_before(self.critic, batch, below)
        if features is None:
            raise ValueError(
                f"expected last states for value_network={self.value_network}, got None; pass those "
                "of the reference or the policy"
            )
        # Unit variance over sqrt(D): a step of Adam moves every weight by the learning rate, and on
        # raw states of norm far above 1 that alone would swing the values by more than the returns.
        width = features.shape[-1]
        scaled = nn.functional.layer_norm(widened(features), (width,)) / math.sqrt(width)
        return batch.spread(self.value_head(scaled))

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the policy as a plain transformers folder."""
        return save_policy(folder, self.policy)


if TYPE_CHECKING:  # see models.policy
    ActorSource = ActorCritic | Policy
else:
    ActorSource = ActorCritic
