"""What counts as reward hacking: limits, the texts' own symptoms, a held-out judge's opinion."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch import LightningModule, Trainer
from scipy.special import ndtr, ndtri
from torch import nn

from rlaif_pl.errors import at_least
from rlaif_pl.ops import wide_dtype
from rlaif_pl.rl.function_reward import rewards_of
from rlaif_pl.rl.reward_columns import score_with
from rlaif_pl.statistics.regression import BatchMean
from rlaif_pl.text import repeated_ngrams
from rlaif_pl.types import PointwiseLabeler, Reward

ADVICE = {
    "length_ratio": "look at samples.csv; raise shaping.kl_coef; add shaping.missing_eos_penalty (too "
    "long) or shaping.min_length with min_length_penalty (too short); compare lengths in the labels: a "
    "reward model that learned length pays for it",
    "kl": "raise shaping.kl_coef, lower the learning rate, or train fewer steps",
    "unfinished": "raise sampling.max_new_tokens or shaping.missing_eos_penalty",
    "repetitive": "set shaping.repetition_penalty, or raise shaping.kl_coef and lower the learning "
    "rate; add such texts to the labeled pairs, so that the reward model has seen them",
    "empty": "set shaping.min_length and shaping.min_length_penalty",
    "divergence": "trust the judge's best checkpoint, not the last; label fresh pairs of the present "
    "policy and fit the reward model again, or raise shaping.kl_coef",
}


@dataclass(frozen=True)
class Repetition:
    """When a response is repetitive.

    Attributes:
        ngram: Length of the n-grams whose repetition counts, at least 1.
        share: Share of repeated n-grams above which it is, in (0, 1).
    """

    ngram: int = 3
    share: float = 0.25

    def __post_init__(self) -> None:
        at_least(1, **{"repetition.ngram": self.ngram})


@dataclass(frozen=True)
class AlarmLimits:
    """Where an alarm goes off; None turns a limit off.

    Attributes:
        shortest: Mean length over that of the first steps, at least this.
        longest: The same, at most this.
        kl: KL from the SFT policy in nats a response.
        unfinished: Rise of the share of responses cut by the length limit, since the first steps.
        repetitive: Rise of the share of repetitive responses since the first steps.
        empty: Share of empty responses, in [0, 1].
        divergence: Reward up and judge down by this many standard deviations of their scores,
            both beyond what chance gives over all judgments of a fit.
    """

    shortest: float | None = 0.5
    longest: float | None = 2.0
    kl: float | None = 30.0
    unfinished: float | None = 0.25
    repetitive: float | None = 0.2
    empty: float | None = 0.1
    divergence: float | None = 0.3

    def __post_init__(self) -> None:
        at_least(0, **{f"limits.{name}": value for name, value in vars(self).items()})
        if self.shortest is not None and self.longest is not None and self.shortest >= self.longest:
            raise ValueError(
                f"expected limits.shortest below longest, got {self.shortest} and {self.longest}"
            )

    def crossed(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the limit of every quantity that is beyond it; absent ones cross nothing."""
        bounds = [("length_ratio", self.shortest, -1), ("length_ratio", self.longest, 1)]
        names = ("kl", "unfinished", "repetitive", "empty", "divergence")
        bounds += [(name, getattr(self, name), 1) for name in names]
        return {
            name: limit
            for name, limit, sign in bounds
            if limit is not None and name in values and sign * values[name] > sign * limit
        }


def symptoms(responses: Sequence[str], n: int, share: float) -> tuple[int, int, int]:
    """Count responses of which more than ``share`` is repeated n-grams, empty ones, and all."""
    repetitive = sum(repeated_ngrams(text, n) > share for text in responses)
    return repetitive, sum(not text.strip() for text in responses), len(responses)


def count_streaks(
    streaks: dict[str, tuple[int, int]], step: int, watched: Iterable[str], crossed: Container[str]
) -> None:
    """Note in ``streaks`` since when, for how many steps in a row, watched quantities have crossed."""
    for name in watched:
        onset, length = streaks.pop(name, (step, 0))
        if name in crossed:
            streaks[name] = (onset, length + 1)


def z_at_look(z: float, look: int) -> float:
    """Standard errors needed at the ``look``-th test, from 1, of a null hypothesis that all share.

    The chance of ``z`` or more by luck is spent as ``1 / (look (look + 1))``, which sums to 1, so that
    any number of looks, whatever their dependence, has at most the chance of one (Bonferroni).
    """
    return -float(ndtri(ndtr(-z) / (look * (look + 1))))


class AlarmJudge:
    """Has at least 2 samples that a policy was paid for scored by what it was not trained on."""

    def __init__(self, judge: Reward | PointwiseLabeler, num_samples: int) -> None:
        at_least(2, judge_samples=num_samples)
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
        """Mean reward and opinion of all ranks' latest prompts, and the share without an opinion.

        A prompt counts once, however many responses it has: they are alike.
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

        def batch_mean(total: float, squares: float) -> BatchMean:
            mean = total / count
            variance = max(0.0, (squares - count * mean * mean) / (count - 1))
            return BatchMean(trainer.global_step, mean, math.sqrt(variance), int(count))

        return batch_mean(rest[0], rest[2]), batch_mean(rest[1], rest[3]), share
