"""Direct preference optimization on soft labels: a policy from preferences, without a reward model."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from typing_extensions import override

from rlaif_pl.engine.response_batch import ResponseBatch
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.models.actor_critic import ActorCritic
from rlaif_pl.models.adapters import Lora
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.policy import BackboneOptions, Policy, PolicySource
from rlaif_pl.text import Template
from rlaif_pl.training.optimizers import ConstantWithWarmup, FineTuningAdamW
from rlaif_pl.training.pairs_module import PairsModule
from rlaif_pl.training.sharding import Division

AS_IT_IS = SamplingParams()  # temperature 1, every token


class DPOModule(PairsModule):
    """Fit a policy to pairs whose labels are probabilities (DPO, arXiv 2305.18290, equation 7).

    The reward of a response is ``beta (log pi - log pi_ref)``, summed over its tokens, EOS included;
    the loss is the cross-entropy of the soft label ``p_first``, which is equation 7 where it is 0 or 1
    and conservative DPO where it is ``1 - epsilon``. The reference is the policy before training: with
    adapters the same weights without them. Pairs share their prompt, read once for both responses.

    Args:
        backbone: Policy to start from, usually an SFT policy. In Python also a ``Policy``, which is
            left as it is and whose ``lora`` counts unless another is given.
        lora: Adapters on the layers above the trunk; None trains copies of those layers.
        template: How texts are written; None takes what the backbone was trained with, or the default.
        beta: How strongly the policy is held to the reference, above 0.
        max_response_tokens: Longer responses lose their tail and have no EOS then (EOS included), at
            least 2; None reads them whole.
        optimizer: Builds the optimizer from parameters; left out, AdamW at 1e-6 (TRL 1.16's
            ``DPOConfig``), 1e-5 where adapters are trained.
        scheduler: Builds the learning-rate schedule, stepped every batch.
        seed: Seeds the adapters.
        micro_batch_tokens: Tokens that are trained on at a time; see ``TrainableModule``.
    """

    prefix, close_cut = "dpo", False
    cut_effect = "what is behind is not learned"
    divided = Division("actor", ("trunk_states", "reference_pass", "logprobs"), "actor.policy")

    def __init__(
        self,
        backbone: PolicySource = BackboneOptions(),  # noqa: B008 - frozen
        lora: Lora | None = None,
        template: Template | None = None,
        beta: float = 0.1,
        max_response_tokens: int | None = None,
        optimizer: OptimizerCallable = lambda p: FineTuningAdamW(p, lr=1e-6, adapter_lr=1e-5),
        scheduler: LRSchedulerCallable = ConstantWithWarmup,
        seed: int = 0,
        micro_batch_tokens: int | None = None,
    ) -> None:
        super().__init__(optimizer, scheduler, micro_batch_tokens)
        if not beta > 0 or (max_response_tokens is not None and max_response_tokens < 2):
            raise ValueError(
                f"expected beta above 0 and max_response_tokens of at least 2 (a token and EOS), got "
                f"{beta} and {max_response_tokens}"
            )
        if isinstance(backbone, Policy) and lora is None:
            lora = backbone.lora
        options: dict[str, Any] = {"lora": lora, "template": template, "seed": seed}
        self.actor = ActorCritic(backbone, value_network="none", **options)
        self.is_given = self.actor.is_given
        self.beta = beta
        self.max_response_tokens = max_response_tokens

    @property
    def policy(self) -> Policy:
        """The policy that is trained."""
        return self.actor.policy

    @override
    def reader(self) -> tuple[CausalModel, int | None]:
        return self.policy, self.max_response_tokens

    @override
    def pair_rewards(self, encoded: ResponseBatch) -> Tensor:
        below = self.actor.trunk_states(encoded.inputs)
        reference, _ = self.actor.reference_pass(encoded, below, AS_IT_IS)
        ratios = self.actor.logprobs(encoded, below, AS_IT_IS) - reference  # 0 at padding
        return self.beta * ratios.sum(1).view(-1, 2)

    @override
    def sums(self, rewards: Tensor, target: Tensor, weights: Tensor) -> dict[str, Tensor]:
        # over beta: how far the policy has moved in nats a response, up from the reference or down
        better = (target < 0.5).long()[:, None]
        sides = {"reward_chosen": better, "reward_rejected": 1 - better}
        return {k: (weights * rewards.gather(1, s)[:, 0]).sum() for k, s in sides.items()}
