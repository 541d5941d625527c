"""How far a reward agrees with gold verdicts and with held-out AI labels, and how calibrated it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from scipy.special import expit

from rlaif_pl.data.metric_files import write_json
from rlaif_pl.evaluation.pairs import (
    Array,
    correctness,
    decided,
    judge_counts,
    judge_metrics,
    judges_named,
    lengths_of,
    p_first_of,
    side,
)
from rlaif_pl.rl.reward_columns import NO_COLUMNS, Columns, score_with
from rlaif_pl.statistics import (
    Estimator,
    Interval,
    ReliabilityBin,
    brier,
    expected_calibration_error,
    flat_metrics,
    fold,
    reliability_table,
)
from rlaif_pl.tables import Cell, Table
from rlaif_pl.types import Preference, Reward


@dataclass(frozen=True, slots=True)
class RewardReport:
    """A reward measured on pairs it was not trained on."""

    # share of gold pairs whose better response has the higher reward; equal rewards count half
    pair_accuracy: Interval
    length_baseline: Interval  # the same for "more characters win"
    gain_over_length: Interval  # paired difference of the two
    # expected calibration error of `sigmoid(margin)`: 10 bins of equal mass, favored side first
    ece: float
    ece_equal_width: float  # the same with bins of equal width
    brier: float  # mean squared difference of `sigmoid(margin)` and the gold verdict
    reliability: tuple[ReliabilityBin, ...]  # bins of equal mass behind `ece`
    # Spearman's correlation of margin and length difference, in [-1, 1]; NaN where one of them never
    # varies
    length_correlation: float
    ai_agreement: Interval  # pair accuracy on held-out AI labels; empty where none were given
    judged: Mapping[str, int]  # pairs by who gave the gold verdict (a key of `gold.NAMES`)
    # pairs left out of all of these because the reward reads the same of both responses, as of two
    # that differ behind its length limit
    identical: int = 0

    def to_metrics(self, prefix: str = "reward") -> dict[str, float]:
        """Return flat numbers; what was not measured is left out."""
        names = ["pair_accuracy", "length_baseline", "gain_over_length", "ai_agreement", "ece"]
        names += ["ece_equal_width", "brier", "length_correlation", "identical"]
        values = {name: getattr(self, name) for name in names}
        values |= {"n": self.pair_accuracy.n, "ai_n": self.ai_agreement.n or None}
        return flat_metrics(prefix, values) | judge_metrics(self.judged, prefix)

    def render(self, console: Console) -> None:
        """Print the report as a table."""
        rows: list[list[Cell]] = [
            [label, interval.percent(), interval.n]
            for label, interval in (
                ("pair accuracy", self.pair_accuracy),
                ("longer response wins", self.length_baseline),
                ("gain over length", self.gain_over_length),
                ("agreement with held-out AI labels", self.ai_agreement),
            )
        ]
        rows.append(["calibration error / Brier", f"{self.ece:.3f} / {self.brier:.3f}", ""])
        rows.append(["correlation with length", f"{self.length_correlation:.2f}", ""])
        if self.identical:
            rows.append(["left out: identical once cut", "", self.identical])
        title = f"Reward beside {judges_named(self.judged)}"
        console.print(Table(title, ["measure", "value [interval]", "pairs"], rows).rich())

    def write(self, folder: Path | str) -> None:
        """Write ``reliability.json``, a list of bins, for the report."""
        write_json(Path(folder) / "reliability.json", [asdict(row) for row in self.reliability])


def measure_reward(
    reward: Reward,
    gold: Sequence[Preference],
    ai_labeled: Sequence[Preference] = (),
    *,
    estimator: Estimator = Estimator(),
) -> RewardReport:
    """Score both responses of every pair and compare the higher one with the verdict.

    Responses are scored as they are: surplus symbols stay, since the policy is paid for them.

    Args:
        reward: Reward to measure.
        gold: Pairs with a gold ``p_first``; undecided ones are left out, and those whose responses
            the reward cannot tell apart (see ``RewardModel.tells_apart``).
        ai_labeled: Pairs with an AI's ``p_first`` that the reward was not trained on.
        estimator: How intervals are made.

    Raises:
        ValueError: No gold pair is decided, or a reward is not finite.
    """
    people, machine = ([pairs[i] for i in decided(pairs)] for pairs in (gold, ai_labeled))
    if not people:
        raise ValueError(
            f"expected gold pairs with a verdict that is no tie, got none among {len(gold)}"
        )
    asked = len(people) + len(machine)
    people, machine = told_apart(reward, people), told_apart(reward, machine)
    if not people:
        raise ValueError(
            f"expected pairs that the reward can tell apart, all of {asked} are identical once their "
            "responses are cut; raise its max_response_tokens"
        )
    margin, truth = margins(reward, people), p_first_of(people)
    groups = [pair.group for pair in people]
    correct = correctness(side(margin), side(truth - 0.5))
    first_length, second_length = lengths_of(people)
    by_length = correctness(side(first_length - second_length), side(truth - 0.5))
    confidence, came_true = fold(expit(margin), truth)
    ai_correct = correctness(side(margins(reward, machine)), side(p_first_of(machine) - 0.5))
    return RewardReport(
        pair_accuracy=estimator.share(correct, groups),
        length_baseline=estimator.share(by_length, groups),
        gain_over_length=estimator.share_difference(correct, by_length, groups),
        ece=expected_calibration_error(confidence, came_true),
        ece_equal_width=expected_calibration_error(confidence, came_true, binning="equal_width"),
        brier=brier(expit(margin), truth),
        reliability=tuple(reliability_table(confidence, came_true)),
        length_correlation=_rank_correlation(margin, first_length - second_length),
        ai_agreement=estimator.share(ai_correct, [pair.group for pair in machine]),
        judged=judge_counts(people),
        identical=asked - len(people) - len(machine),
    )


def told_apart(reward: Reward, pairs: list[Preference]) -> list[Preference]:
    """Return the pairs of whose responses the reward does not read one and the same."""
    tells_apart = getattr(reward, "tells_apart", None)
    if tells_apart is None:
        return pairs
    return [pair for pair, differs in zip(pairs, tells_apart(pairs), strict=True) if differs]


def margins(reward: Reward, pairs: Sequence[Preference]) -> Array:
    """Reward of the first minus reward of the second response, ``(N,)``; errors as of ``scored``."""
    if not pairs:
        return np.zeros(0)
    prompts = [pair.prompt for pair in pairs for _ in range(2)]  # neighbors share their prompt
    scores = scored(reward, prompts, [text for pair in pairs for text in (pair.first, pair.second)])
    return scores[0::2] - scores[1::2]


def scored(
    reward: Reward,
    prompts: Sequence[str],
    responses: Sequence[str],
    columns: Columns = NO_COLUMNS,
) -> Array:
    """Rewards as float64 ``(N,)``; ``columns`` are for a reward that names them.

    Raises:
        ValueError: It is another number of them, one is not finite, or a column is missing.
    """
    found = torch.as_tensor(score_with(reward, prompts, responses, columns))  # a list will do, too
    scores: Array = found.detach().cpu().double().numpy()
    if scores.shape != (len(prompts),):
        raise ValueError(f"expected {len(prompts)} rewards, got shape {scores.shape}")
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores)).sum())
        raise ValueError(
            f"expected finite rewards, got {bad} of {len(scores)} that are NaN or infinite; "
            "the reward model's training likely diverged: look at its loss"
        )
    return scores


def _rank_correlation(x: Array, y: Array) -> float:
    """Spearman's correlation; NaN where one side is constant or there are fewer than 2 rows."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    from scipy.stats import spearmanr  # its import takes a second

    return float(spearmanr(x, y).statistic)
