"""The objective of one A2C update: targets without gradients, and the loss.

``(1 - beta) r - beta KL`` of arXiv 2309.00267v2, appendix A.3, with the actor and critic losses of its
appendix F. Defaults are the paper's where it gives a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlaif_pl import ops
from rlaif_pl.errors import at_least, one_of, within
from rlaif_pl.models.actor_critic import Evaluation
from rlaif_pl.rl.kl import token_kl
from rlaif_pl.rl.losses import (
    Average,
    explained_variance,
    policy_gradient_loss,
    response_mean,
    token_weights,
    truncated_weights,
    value_loss,
)
from rlaif_pl.rl.rollout import Rollout
from rlaif_pl.rl.shaping import (
    Baseline,
    RewardShaping,
    Scale,
    final_scores,
    relative_scores,
    repeated_share,
    whiten,
)


@dataclass(frozen=True)
class Advantages:
    """How rewards and values become advantages.

    Attributes:
        gamma: Discount per token, in [0, 1].
        gae_lambda: Trace decay, in [0, 1]; 1 gives Monte Carlo returns, as in the paper.
        baseline: ``rloo`` subtracts from each score the mean of the prompt's other responses,
            ``group_mean`` that of all of them; the value network then learns what is left. Needs
            ``sampling.n`` of at least 2. Without a value network it is needed, and the penalties are
            part of the score: the difference is the advantage (leave-one-out REINFORCE, arXiv
            2402.14740; GRPO, arXiv 2402.03300).
        whiten: Scale advantages to mean 0 and variance 1 over all ranks; not with
            ``trainer.accumulate_grad_batches``.
        scale: ``group_std`` divides what the baseline leaves by the standard deviation of the prompt's
            scores, as GRPO does; None as Dr. GRPO.
        loss: How losses (and the entropy) of tokens are averaged; see ``losses.token_weights``.
    """

    gamma: float = 1.0
    gae_lambda: float = 1.0
    baseline: Baseline | None = None
    whiten: bool = False
    scale: Scale | None = None
    loss: Average = "token_mean"

    def __post_init__(self) -> None:
        """Refuse a discount and a trace decay outside [0, 1], and choices that there are not."""
        within(0, 1, gamma=self.gamma, gae_lambda=self.gae_lambda)
        one_of(Average, loss=self.loss)
        if self.baseline is not None:
            one_of(Baseline, baseline=self.baseline)
        if self.scale is not None:
            one_of(Scale, scale=self.scale)
            if self.baseline is None:
                raise ValueError(
                    f"expected scale={self.scale} with a baseline, got none; set baseline: group_mean "
                    "as in GRPO, or whiten: true"
                )


@dataclass(frozen=True)
class Objective:
    """What an update maximizes, and how.

    Attributes:
        shaping: KL coefficient, where the KL enters, and penalties.
        num_generations: Responses a prompt, ``K``.
        advantages: Discount, trace decay, baseline, whitening.
        vf_coef: Weight of the value loss, at least 0.
        ent_coef: Weight of the mean entropy a token, at least 0.
        max_new_tokens: Tokens that a response may have; read with ``loss: constant``.
        importance_cap: Most that a token counts for its policy probability over its sampler's, at least
            1; read where a server drew the responses.
    """

    shaping: RewardShaping = RewardShaping()  # noqa: RUF009 - frozen
    num_generations: int = 4
    advantages: Advantages = Advantages()  # noqa: RUF009 - frozen
    vf_coef: float = 0.5
    ent_coef: float = 0.0
    max_new_tokens: int = 64
    importance_cap: float = math.inf

    def __post_init__(self) -> None:
        """Refuse weights that would reward a wrong value or a certain policy."""
        at_least(0, vf_coef=self.vf_coef, ent_coef=self.ent_coef)

    def at(self, kl_coef: float) -> Objective:
        """Return the same objective with another KL coefficient."""
        return replace(self, shaping=replace(self.shaping, kl_coef=kl_coef))

    def targets(self, rollout: Rollout, found: Evaluation) -> ops.KLGae:
        """Advantages, returns and KL of a batch, without gradients.

        Args:
            rollout: Sampled batch.
            found: What policy and value network say of it. Without values the score less its baseline,
                penalties included, and the KL still to come are the advantage.
        """
        logprobs = found.tokens.logprobs.detach()
        scores, lengths = rollout.scores.to(logprobs.dtype), rollout.lengths
        baseline, scale = self.advantages.baseline, self.advantages.scale
        if baseline and found.values is not None:
            scores = relative_scores(scores, self.num_generations, baseline, scale)
        repeated = None
        if self.shaping.repetition_penalty > 0:
            repeated = repeated_share(rollout.batch.response_ids, rollout.is_sampled)
        final = final_scores(scores, lengths, rollout.finished, self.shaping, repeated)
        if found.values is None:
            final = relative_scores(final, self.num_generations, baseline or "rloo", scale)
            values = torch.zeros_like(logprobs)
        else:
            values = found.values.detach()
        # A response cut by the length limit is scored as it stands, so its end is terminal too.
        return ops.kl_gae(
            logprobs,
            rollout.ref_logprobs,
            values,
            final,
            lengths=lengths,
            kl_coef=self.shaping.reward_kl_coef,
            gamma=self.advantages.gamma,
            gae_lambda=self.advantages.gae_lambda,
        )

    def scaled_advantages(self, targets: Sequence[ops.KLGae], is_counted: Tensor) -> Tensor:
        """Advantages of all responses, whitened over them and all ranks if they are to be. ``(N, R)``.

        Args:
            targets: Of each part of the batch; see ``targets``.
            is_counted: Response tokens that count. ``(N, R)`` bool
        """
        raw = torch.cat([each.advantages for each in targets])
        if not self.advantages.whiten:
            return raw
        # Not by a mask as an index: the host would wait for a GPU to learn how many rows.
        each = torch.cat([part.moments for part in targets])
        moments = each.masked_fill(~is_counted.any(1)[:, None], 0.0).sum(0)
        return whiten(raw, is_counted, moments)

    def token_weights(self, is_counted: Tensor) -> tuple[Tensor, Tensor]:
        """Return what tokens weigh ``(N, R)``, and the count that losses are a mean over."""
        return token_weights(is_counted, self.advantages.loss, self.max_new_tokens)

    def log_ratio(self, rollout: Rollout, found: Evaluation, is_counted: Tensor) -> Tensor | None:
        """Log of the policy's probability of each token over its sampler's, 0 where none counts.

        None where the policy drew the tokens itself. ``(N, R)``
        """
        if rollout.sampler_logprobs is None:
            return None
        ratio = found.tokens.logprobs.detach() - rollout.sampler_logprobs
        return ratio.masked_fill(~is_counted, 0.0)

    def loss(
        self,
        rollout: Rollout,
        found: Evaluation,
        advantages: Tensor,
        returns: Tensor,
        is_counted: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of the weighted losses, each averaged as ``token_weights`` says.

        Args:
            rollout: Sampled batch.
            found: What policy and value network say of it, with gradients.
            advantages: See ``scaled_advantages``. ``(N, R)``
            returns: Value targets. ``(N, R)``
            is_counted: Response tokens that count. ``(N, R)`` bool

        Returns:
            The loss, and it and its parts (unweighted) by the name they are logged under.
        """
        logprobs, entropies = found.tokens
        mean = self.token_weights(is_counted)
        ratio = self.log_ratio(rollout, found, is_counted)
        if ratio is not None:
            advantages = advantages * truncated_weights(ratio, self.importance_cap)
        parts = {
            "policy_loss": policy_gradient_loss(logprobs, advantages, *mean),
            "entropy": response_mean(entropies, *mean),
        }
        loss = self.shaping.policy_weight * parts["policy_loss"]
        if self.ent_coef > 0:
            loss = loss - self.ent_coef * parts["entropy"]
        if self.shaping.kl_placement == "loss":
            kl = token_kl(logprobs, rollout.ref_logprobs, self.shaping.kl_estimator)
            parts["kl_loss"] = response_mean(kl, *mean)
            loss = loss + self.shaping.kl_coef * parts["kl_loss"]
        if found.values is not None:
            values = found.values
            parts["value_loss"] = value_loss(values, returns, *mean)
            parts["explained_variance"] = explained_variance(values.detach(), returns, is_counted)
            loss = loss + self.vf_coef * parts["value_loss"]
        return loss, {"loss": loss, **parts}
