"""Advantage actor-critic on a learned (or any other) reward, with a KL penalty."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from rlaif_pl import ops
from rlaif_pl.models.actor_critic import ActorCritic
from rlaif_pl.models.drawing import noise_seed
from rlaif_pl.models.reward import RewardModel
from rlaif_pl.rl.losses import explained_variance, policy_gradient_loss, value_loss
from rlaif_pl.rl.rollout import Rollout, collect
from rlaif_pl.rl.shaping import Shaping, leave_one_out, sequence_kl, token_rewards, whiten
from rlaif_pl.training.base import TrainableModule, rank_share
from rlaif_pl.training.schedules import LinearDecay
from rlaif_pl.types import PromptBatch, Reward, SampledResponse


class A2CModule(TrainableModule):
    """One rollout and one gradient step a batch of prompts.

    Left out, because each batch is used once: importance ratios, clipping, replayed epochs. The
    training pass is also the behavior policy's, so no second policy pass is made.

    Args:
        actor: Policy, reference and value network.
        reward: Scores whole responses; a model of any tokenizer, since it is given text.
        per_prompt: Responses sampled for each prompt, ``K``.
        max_new_tokens: Length limit of a response, EOS included.
        temperature: Divides the logits of policy and reference, in sampling and in scoring.
        shaping: KL coefficient and penalties.
        gamma: Discount per token, in [0, 1].
        lam: Trace decay, in [0, 1]; 1 gives Monte Carlo returns, as in the paper.
        vf_coef: Weight of the value loss.
        whiten_advantages: Scale advantages to mean 0 and variance 1 over all ranks.
        group_baseline: Subtract from each score the mean of the prompt's other responses; the value
            network then learns what is left. Needs ``per_prompt`` of at least 2.
        value_lr_scale: The value network's learning rate as a multiple of the policy's.
        optimizer: Builds the optimizer from parameters.
        scheduler: Builds the learning-rate schedule, stepped every batch.
        seed: Seeds the sampling noise, which also depends on step, prompt and sample.
    """

    def __init__(
        self,
        actor: ActorCritic,
        reward: Reward,
        per_prompt: int = 4,
        max_new_tokens: int = 64,
        temperature: float = 0.9,
        shaping: Shaping = Shaping(),  # noqa: B008 - frozen
        gamma: float = 1.0,
        lam: float = 1.0,
        vf_coef: float = 0.5,
        whiten_advantages: bool = True,
        group_baseline: bool = False,
        value_lr_scale: float = 1.0,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable = LinearDecay,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer, scheduler)
        self.actor = actor
        self.reward = reward
        if isinstance(reward, nn.Module):
            reward.requires_grad_(False)
        if isinstance(reward, RewardModel):
            reward.adopt_trunk(actor.policy.trunk)  # one copy of the weights where they are equal
        self.per_prompt = per_prompt
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.shaping = shaping
        self.gamma, self.lam = gamma, lam
        self.vf_coef = vf_coef
        self.whiten_advantages = whiten_advantages
        self.group_baseline = group_baseline
        self.value_lr_scale = value_lr_scale
        self.seed = seed
        self.latest_samples: list[SampledResponse] = []

    def rollout(self, batch: PromptBatch, *key: int | str) -> Rollout:
        """Sample and score responses; the noise depends on ``key``, prompt and sample only."""
        seeds = [
            noise_seed(self.seed, *key, int(position), sample)
            for position in batch.positions
            for sample in range(self.per_prompt)
        ]
        return collect(
            self.actor,
            self.reward,
            batch.prompts,
            per_prompt=self.per_prompt,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seeds=seeds,
        )

    @override
    def training_step(self, batch: PromptBatch, batch_idx: int) -> Tensor:
        rollout = self.rollout(batch, self.global_step)
        self.latest_samples = sampled_responses(self.global_step, batch, rollout, self.per_prompt)
        return self.update_loss(rollout, self.counted(rollout, batch))

    def update_loss(self, rollout: Rollout, is_counted: Tensor) -> Tensor:
        """Loss of one update; the policy pass here is the only one with gradients.

        Args:
            rollout: Sampled batch.
            is_counted: Response tokens that count. ``(N, R)`` bool
        """
        tokens, below, is_sampled = rollout.batch, rollout.below, rollout.is_sampled
        logprobs = self.actor.policy.logprobs(tokens, below, self.temperature)
        values = self.actor.values(tokens, below, rollout.features)[:, :-1]
        scores = rollout.scores
        if self.group_baseline:
            scores = leave_one_out(scores, self.per_prompt)
        rewards = token_rewards(
            scores,
            logprobs.detach(),
            rollout.ref_logprobs,
            is_sampled,
            rollout.finished,
            self.shaping,
        )
        # A response cut by the length limit is scored as it stands, so its end is terminal too.
        advantages, returns = ops.gae(
            rewards, values.detach(), lengths=rollout.lengths, gamma=self.gamma, lam=self.lam
        )
        if self.whiten_advantages:
            advantages = whiten(advantages, is_counted)
        policy_part = policy_gradient_loss(logprobs, advantages, is_counted)
        value_part = value_loss(values, returns, is_counted)
        loss = policy_part + self.vf_coef * value_part
        self.log_update(rollout, logprobs.detach(), is_counted)
        explained = explained_variance(values.detach(), returns, is_counted)
        parts = {
            "a2c/train_loss": loss,
            "a2c/train_policy_loss": policy_part,
            "a2c/train_value_loss": value_part,
            "a2c/train_explained_variance": explained,
        }
        self.log_dict({k: v.detach() for k, v in parts.items()}, batch_size=len(tokens.ids))
        return loss * rank_share(is_counted.sum())

    def log_update(self, rollout: Rollout, logprobs: Tensor, is_counted: Tensor) -> None:
        """Log reward, KL and lengths of a training batch, means over the rows of all ranks."""
        rows = is_counted.any(1)
        share = rank_share(rows.sum())
        values = batch_means(rollout, logprobs, rows)
        self.log_dict(
            {f"a2c/train_{name}": value * share for name, value in values.items()},
            prog_bar=True,
            batch_size=int(rows.sum()),
            sync_dist=True,
        )

    def counted(self, rollout: Rollout, batch: PromptBatch) -> Tensor:
        """Response tokens of rows that are not fillers. ``(N, R)`` bool."""
        filler = batch.is_filler.repeat_interleave(self.per_prompt).to(rollout.scores.device)
        return rollout.is_sampled & ~filler[:, None]

    @override
    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        rollout = self.rollout(batch, "validation")
        rows = self.counted(rollout, batch).any(1)
        logprobs = self.actor.policy.logprobs(rollout.batch, rollout.below, self.temperature)
        values = batch_means(rollout, logprobs, rows)
        self.log_dict(
            {f"a2c/val_{name}": value for name, value in values.items()},
            prog_bar=True,
            batch_size=int(rows.sum()),
            sync_dist=True,
        )

    @override
    def build_optimizer(self) -> Optimizer:
        trained = self.trained()
        policy = [value for name, value in trained.items() if name.startswith("actor.policy.")]
        critic = [value for name, value in trained.items() if not name.startswith("actor.policy.")]
        optimizer = self.optimizer([{"params": policy}, {"params": critic}])  # type: ignore[arg-type]
        optimizer.param_groups[1]["lr"] *= self.value_lr_scale
        return optimizer

    @override
    def export(self, folder: Path) -> Path:
        return self.actor.save(folder)


def batch_means(rollout: Rollout, logprobs: Tensor, rows: Tensor) -> dict[str, Tensor]:
    """Return mean reward, KL, length and unfinished share over rows; 0 where there are none.

    Args:
        rollout: Sampled batch.
        logprobs: Policy's, of the response tokens. ``(N, R)``
        rows: Which responses count. ``(N,)`` bool
    """
    quantities = {
        "reward": rollout.scores,
        "kl": sequence_kl(logprobs, rollout.ref_logprobs, rollout.is_sampled),
        "length": rollout.lengths.float(),
        "unfinished": (~rollout.finished).float(),
    }
    count = rows.sum().clamp(min=1)
    return {name: value[rows].sum() / count for name, value in quantities.items()}


def sampled_responses(
    step: int, batch: PromptBatch, rollout: Rollout, per_prompt: int
) -> list[SampledResponse]:
    """Pair every sampled text with its prompt and score, for tables."""
    prompts = [prompt for prompt in batch.prompts for _ in range(per_prompt)]
    rows = zip(prompts, rollout.texts, rollout.scores.tolist(), strict=True)
    return [SampledResponse(step, prompt, text, score) for prompt, text, score in rows]
