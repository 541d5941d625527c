"""How far a reward agrees with gold verdicts and with held-out AI labels, and how calibrated it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from scipy.special import expit

from rlaif_pl.data.metric_files import write_json
from rlaif_pl.evaluation.pairs import (
    Array,
    Pairs,
    correctness,
    decided,
    judge_counts,
    judge_metrics,
    judges_named,
    lengths_of,
    margins_by,
    p_first_of,
    side,
)
from rlaif_pl.evaluation.win_rate import Texts
from rlaif_pl.rl.reward_columns import NO_COLUMNS, Columns, columns_of, score_with
from rlaif_pl.statistics import Estimator, Interval, calibration, flat_metrics
from rlaif_pl.tables import Cell, Table
from rlaif_pl.types import Preference, Prompt, Reward


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
    reliability: tuple[calibration.ReliabilityBin, ...]  # bins of equal mass behind `ece`
    length_correlation: float  # Spearman's, of margin and length difference; NaN if one is constant
    ai_agreement: Interval  # pair accuracy on held-out AI labels; empty where none were given
    judged: Mapping[str, int]  # pairs by who gave the gold verdict (a key of `pairs.NAMES`)
    identical: int = 0  # left out, as the reward reads one text twice within its length limit

    def to_metrics(self, prefix: str = "reward") -> dict[str, float]:
        """Return flat numbers; what was not measured is left out."""
        names = ["pair_accuracy", "length_baseline", "gain_over_length", "ai_agreement", "ece"]
        names += ["ece_equal_width", "brier", "length_correlation", "identical"]
        values = {name: getattr(self, name) for name in names}
        values |= {"n": self.pair_accuracy.n, "ai_n": self.ai_agreement.n or None}
        return flat_metrics(prefix, values) | judge_metrics(self.judged, prefix)

    def render(self, console: Console) -> None:
        """Print the report as a table."""
        shares = {
            "pair accuracy": self.pair_accuracy,
            "longer response wins": self.length_baseline,
            "gain over length": self.gain_over_length,
            "agreement with held-out AI labels": self.ai_agreement,
        }
        rows: list[list[Cell]] = [[name, x.percent(), x.n] for name, x in shares.items()]
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
    reward: Reward, gold: Pairs, ai_labeled: Pairs = (), *, estimator: Estimator = Estimator()
) -> RewardReport:
    """Score both responses of every pair and compare the higher one with the verdict.

    Responses are scored as they are: surplus symbols stay, since the policy is paid for them. Left out
    are undecided pairs, and those whose responses the reward cannot tell apart
    (``RewardModel.tells_apart``). ``ai_labeled`` are pairs that the reward was not trained on.
    ``ValueError``: no gold pair is decided, or a reward is not finite.
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
    folded = calibration.fold(expit(margin), truth)
    ai_correct = correctness(side(margins(reward, machine)), side(p_first_of(machine) - 0.5))
    return RewardReport(
        pair_accuracy=estimator.share(correct, groups),
        length_baseline=estimator.share(by_length, groups),
        gain_over_length=estimator.share_difference(correct, by_length, groups),
        ece=calibration.expected_calibration_error(*folded),
        ece_equal_width=calibration.expected_calibration_error(*folded, binning="equal_width"),
        brier=calibration.brier(expit(margin), truth),
        reliability=tuple(calibration.reliability_table(*folded)),
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


def margins(reward: Reward, pairs: Pairs) -> Array:
    """Reward of the first minus reward of the second response, ``(N,)``; errors as of ``scored``."""
    return margins_by(partial(scored, reward), pairs) if pairs else np.zeros(0)


def scored(
    reward: Reward, prompts: Sequence[str], responses: Sequence[str], columns: Columns = NO_COLUMNS
) -> Array:
    """Rewards as float64 ``(N,)``; ``columns`` are for a reward that names them.

    ``ValueError``: it is another number of them, one is not finite, or a column is missing.
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


def rewards_of(prompts: Sequence[Prompt], responses: Texts, reward: Reward) -> Array:
    """Reward of each of some responses a prompt, prompts in order, ``(N,)``; see ``scored``."""
    asked = [prompt for prompt, texts in zip(prompts, responses, strict=True) for _ in texts]
    flat = [text for texts in responses for text in texts]
    return scored(reward, [prompt.text for prompt in asked], flat, columns_of(asked))


def _rank_correlation(x: Array, y: Array) -> float:
    """Spearman's correlation; NaN where one side is constant or there are fewer than 2 rows."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    from scipy.stats import spearmanr  # its import takes a second

    return float(spearmanr(x, y).statistic)
