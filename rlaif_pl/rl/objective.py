"""The objective of one A2C update: targets without gradients, and the loss, in parts or whole.

``(1 - beta) r - beta KL`` of arXiv 2309.00267v2, appendix A.3, with the losses of its appendix F.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from rlaif_pl import ops
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.errors import at_least, one_of, within
from rlaif_pl.models.actor_critic import ActorCritic, Evaluation
from rlaif_pl.rl import losses, shaping
from rlaif_pl.rl.kl import token_kl
from rlaif_pl.rl.losses import response_mean
from rlaif_pl.rl.rollout import Rollout
from rlaif_pl.rl.shaping import Baseline, RewardShaping, Scale


@dataclass(frozen=True)
class Advantages:
    """How rewards and values become advantages.

    Attributes:
        gamma: Discount per token, in [0, 1].
        gae_lambda: Trace decay, in [0, 1]; 1 gives Monte Carlo returns, as in the paper.
        baseline: ``rloo`` subtracts from each score the mean of the prompt's other responses,
            ``group_mean`` that of all of them; the value network then learns what is left. Needs
            ``sampling.n`` of at least 2. Without a value network it is needed, and the difference,
            penalties included, is the advantage (leave-one-out REINFORCE, arXiv 2402.14740; GRPO,
            arXiv 2402.03300).
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
    loss: losses.Average = "token_mean"

    def __post_init__(self) -> None:
        within(0, 1, gamma=self.gamma, gae_lambda=self.gae_lambda)
        one_of(losses.Average, loss=self.loss)
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
    """What an update maximizes, and how."""

    shaping: RewardShaping = RewardShaping()  # noqa: RUF009 - frozen
    num_generations: int = 4  # responses a prompt, K
    advantages: Advantages = Advantages()  # noqa: RUF009 - frozen
    vf_coef: float = 0.5  # weight of the value loss, at least 0
    ent_coef: float = 0.0  # weight of the mean entropy a token, at least 0
    max_new_tokens: int = 64  # of a response; read with ``loss: constant``
    # most that a token counts for its policy probability over its sampler's, where a server drew
    importance_cap: float = math.inf

    def __post_init__(self) -> None:
        at_least(0, vf_coef=self.vf_coef, ent_coef=self.ent_coef)

    def at(self, kl_coef: float) -> Objective:
        """Return the same objective with another KL coefficient."""
        return replace(self, shaping=replace(self.shaping, kl_coef=kl_coef))

    def targets(self, rollout: Rollout, found: Evaluation) -> ops.KLGae:
        """Advantages, returns and KL of a batch, without gradients; values are 0 without a network."""
        logprobs = found.tokens.logprobs.detach()
        scores, lengths = rollout.scores.to(logprobs.dtype), rollout.batch.lengths
        baseline, scale = self.advantages.baseline, self.advantages.scale
        if baseline and found.values is not None:
            scores = shaping.relative_scores(scores, self.num_generations, baseline, scale)
        repeated = None
        if self.shaping.repetition_penalty > 0:
            repeated = shaping.repeated_share(rollout.batch.response_ids, rollout.is_sampled)
        final = shaping.final_scores(scores, lengths, rollout.finished, self.shaping, repeated)
        if found.values is None:
            final = shaping.relative_scores(final, self.num_generations, baseline or "rloo", scale)
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
        """Advantages of all parts' responses ``(N, R)``, whitened over all ranks if they are to be."""
        raw = torch.cat([each.advantages for each in targets])
        if not self.advantages.whiten:
            return raw
        # Not by a mask as an index: the host would wait for a GPU to learn how many rows.
        each = torch.cat([part.moments for part in targets])
        moments = each.masked_fill(~is_counted.any(1)[:, None], 0.0).sum(0)
        return shaping.whiten(raw, is_counted, moments)

    def token_weights(self, is_counted: Tensor) -> tuple[Tensor, Tensor]:
        """Return what tokens weigh ``(N, R)``, and the count that losses are a mean over."""
        return losses.token_weights(is_counted, self.advantages.loss, self.max_new_tokens)

    def loss(
        self,
        rollout: Rollout,
        found: Evaluation,
        advantages: Tensor,
        returns: Tensor,
        is_counted: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of the weighted losses; and it and its parts, unweighted, to log. Targets ``(N, R)``."""
        logprobs, entropies = found.tokens
        mean = self.token_weights(is_counted)
        ratio = sampler_log_ratio(rollout, found, is_counted)
        if ratio is not None:
            advantages = advantages * losses.truncated_weights(ratio, self.importance_cap)
        parts = {
            "policy_loss": losses.policy_gradient_loss(logprobs, advantages, *mean),
            "entropy": response_mean(entropies, *mean),
        }
        loss = self.shaping.policy_weight * parts["policy_loss"]
        if self.ent_coef > 0:
            loss = loss - self.ent_coef * parts["entropy"]
        if self.shaping.kl_placement == "loss":
            kl = token_kl(logprobs, rollout.ref_logprobs, self.shaping.kl_estimator)
            parts["kl_loss"] = response_mean(kl, *mean)
            loss = loss + self.shaping.kl_coef * parts["kl_loss"]
        if (values := found.values) is not None:
            parts["value_loss"] = losses.value_loss(values, returns, *mean)
            explained = losses.explained_variance(values.detach(), returns, is_counted)
            parts["explained_variance"] = explained
            loss = loss + self.vf_coef * parts["value_loss"]
        return loss, {"loss": loss, **parts}


def sampler_log_ratio(rollout: Rollout, found: Evaluation, is_counted: Tensor) -> Tensor | None:
    """Log of each token's policy probability over its sampler's ``(N, R)``; None if that is itself."""
    if rollout.sampler_logprobs is None:
        return None
    ratio = found.tokens.logprobs.detach() - rollout.sampler_logprobs
    return ratio.masked_fill(~is_counted, 0.0)


class Update:
    """The loss of a rollout on tokens that count ``(N, R)``, as a sum over parts of whole prompts."""

    def __init__(
        self,
        actor: ActorCritic,
        objective: Objective,
        rollout: Rollout,
        is_counted: Tensor,
        params: SamplingParams,
        most_tokens: int | None = None,
    ) -> None:
        self.actor, self.objective, self.params = actor, objective, params
        self.is_counted = is_counted
        self.count = objective.token_weights(is_counted)[1]  # what the loss is a mean over
        cuts, repeat = rollout.batch.cut(most_tokens), rollout.batch.per_prefix
        rows = [slice(cut.start * repeat, cut.stop * repeat) for cut in cuts]
        self._parts = [(rollout.part(cut), own) for cut, own in zip(cuts, rows, strict=True)]
        self._targets: list[ops.KLGae] = []
        self._values: list[Tensor] = []
        self._logs: list[dict[str, Tensor]] = []
        self._ratios: list[Tensor] = []

    def losses(self) -> list[Callable[[], Tensor]]:
        """Return functions that run a part forward and give its share of the loss."""
        whitened = None
        # It needs all advantages: of several parts one more pass, without gradients.
        if len(self._parts) > 1 and self.objective.advantages.whiten:
            with torch.no_grad():
                known = [self.objective.targets(p, self._evaluate(p)) for p, _ in self._parts]
            whitened = self.objective.scaled_advantages(known, self.is_counted)
        return [partial(self._loss, *part, whitened) for part in self._parts]

    @property
    def kl(self) -> Tensor:
        """Log-ratio of each response (see ``sequence_kl``), once all losses were computed. ``(N,)``."""
        return torch.cat([targets.kl for targets in self._targets])

    def logged(self) -> dict[str, Tensor]:
        """Return the loss and its parts (unweighted) of the whole rollout, by name."""
        logs = self._logs
        means = {name: torch.stack([part[name] for part in logs]).sum() for name in logs[0]}
        if self._values and len(self._parts) > 1:  # the one that is no mean over tokens
            returns = torch.cat([targets.returns for targets in self._targets])
            whole = losses.explained_variance(torch.cat(self._values), returns, self.is_counted)
            means["explained_variance"] = whole
        return means

    def sampler_gap(self) -> dict[str, Tensor]:
        """Return how far (nats a token) the policy is from who drew; empty where it drew itself."""
        if not self._ratios:
            return {}
        ratio = torch.cat(self._ratios)
        is_clipped = ratio > math.log(self.objective.importance_cap)
        return {
            "log_ratio_mean": response_mean(ratio.abs(), self.is_counted),
            "log_ratio_max": ratio.abs().max(),
            "share_clipped": response_mean(is_clipped.float(), self.is_counted),
        }

    def _loss(self, part: Rollout, rows: slice, whitened: Tensor | None) -> Tensor:
        is_counted, found = self.is_counted[rows], self._evaluate(part)
        targets = self.objective.targets(part, found)
        if whitened is None:
            advantages = self.objective.scaled_advantages([targets], is_counted)
        else:
            advantages = whitened[rows]
        loss, logs = self.objective.loss(part, found, advantages, targets.returns, is_counted)
        if (ratio := sampler_log_ratio(part, found, is_counted)) is not None:
            self._ratios.append(ratio)
        counted = self.objective.token_weights(is_counted)[1].float()
        share = counted / self.count.clamp(min=1)
        self._targets.append(targets)
        self._logs.append({name: value.detach() * share for name, value in logs.items()})
        if found.values is not None:
            self._values.append(found.values.detach())
        return loss * share

    def _evaluate(self, part: Rollout) -> Evaluation:
        gradient = self.objective.ent_coef > 0
        return self.actor.evaluate(
            part.batch, part.below, part.features, self.params, entropy_gradient=gradient
        )
