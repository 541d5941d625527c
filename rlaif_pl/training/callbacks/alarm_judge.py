"""A held-out judge's opinion of the latest samples, beside the reward they were paid."""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from rlaif_pl.ops import wide_dtype
from rlaif_pl.rl.function_reward import rewards_of
from rlaif_pl.rl.reward_columns import score_with
from rlaif_pl.statistics.regression import BatchMean
from rlaif_pl.types import PointwiseLabeler, Reward


class AlarmJudge:
    """Has at least 2 samples that a policy was paid for scored by what it was not trained on."""

    def __init__(self, judge: Reward | PointwiseLabeler, num_samples: int) -> None:
        if num_samples < 2:
            raise ValueError(f"HackingAlarm: judge_samples must be at least 2, got {num_samples}")
        if not hasattr(judge, "score"):
            raise ValueError(
                f"HackingAlarm: expected a judge that scores single responses, got "
                f"{type(judge).__name__}; use a RewardModel, ScoreLabeler or LikelihoodLabeler"
            )
        self.judge_model = judge
        self.num_samples = num_samples

    def prepare(self, module: LightningModule) -> None:
        """Put a network where the module is, frozen; refuse the reward that is trained on."""
        judge, reward = self.judge_model, getattr(module, "reward", None)
        name = getattr(judge, "fingerprint", None)
        rewards = [reward, *rewards_of(reward).values()]
        alike = [name is not None and name == getattr(r, "fingerprint", None) for r in rewards]
        if any(judge is each for each in rewards) or any(alike):
            raise ValueError(
                "HackingAlarm: the judge is the reward that the policy is trained on, which cannot "
                "show that it is gamed; give another model"
            )
        if isinstance(judge, nn.Module):
            judge.to(module.device).eval().requires_grad_(False)

    @torch.no_grad()
    def judge(
        self, trainer: Trainer, module: LightningModule
    ) -> tuple[BatchMean | None, BatchMean | None, float]:
        """Judge the latest samples of all ranks; each prompt counts once: its responses are alike.

        Returns:
            Mean reward, mean opinion of the same prompts, and the share of samples without an opinion.
        """
        samples = list(getattr(module, "latest_samples", []))[: self.num_samples]
        prompts, responses = [s.prompt for s in samples], [s.response for s in samples]
        scores = [float(value) for value in score_with(self.judge_model, prompts, responses)]
        groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for sample, score in zip(samples, scores, strict=True):
            if math.isfinite(score):
                groups[sample.prompt].append((float(sample.reward), score))
        means = [torch.tensor(rows, dtype=torch.float64).mean(0) for rows in groups.values()]
        table = torch.stack(means) if means else torch.zeros(0, 2, dtype=torch.float64)
        missing = sum(not math.isfinite(score) for score in scores)
        counts = torch.tensor([len(table), missing, len(scores)], dtype=torch.float64)
        sums = torch.cat([counts, table.sum(0), table.square().sum(0)])
        sums = sums.to(wide_dtype(module.device)).to(module.device)
        total = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        count, missing, asked, *rest = total
        share = missing / asked if asked else 0.0
        if count < 2:
            return None, None, share
        step = trainer.global_step
        reward = _batch_mean(step, count, rest[0], rest[2])
        return reward, _batch_mean(step, count, rest[1], rest[3]), share


def _batch_mean(step: int, count: float, total: float, squares: float) -> BatchMean:
    mean = total / count
    variance = max(0.0, (squares - count * mean * mean) / (count - 1))
    return BatchMean(step, mean, math.sqrt(variance), int(count))
