"""How many texts of each policy raters found acceptable, and by how much two policies differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from rlaif_pl.evaluation.human.records import Rating
from rlaif_pl.evaluation.human.tasks import RatingTask
from rlaif_pl.statistics import Estimator, Interval, paired_difference


@dataclass(frozen=True, slots=True)
class Acceptability:
    """Shares of acceptable texts; without a policy where nobody was asked."""

    shares: Mapping[str, Interval]  # of each policy's texts, a row a rating; in [0, 1]
    # share of the first policy minus that of the second, over the same ratings
    differences: Mapping[tuple[str, str], Interval]
    ratings: int  # ratings that say what is acceptable


def acceptability(
    tasks: Mapping[str, RatingTask],
    ratings: Sequence[Rating],
    policies: Sequence[str],
    estimator: Estimator,
) -> Acceptability:
    """Measure what raters of one kind found acceptable; intervals by prompt."""
    said = [rating for rating in ratings if rating.acceptable is not None]
    if not said:
        return Acceptability({}, {}, 0)
    groups = [tasks[rating.task].group for rating in said]
    columns = {name: [_of_policy(tasks, rating, name) for rating in said] for name in policies}
    shares = {name: estimator.share(values, groups) for name, values in columns.items()}
    differences = {
        (a, b): _difference(columns[a], columns[b], (shares[a], shares[b]), groups, estimator)
        for a, b in combinations(policies, 2)
    }
    return Acceptability(shares, differences, len(said))


def _of_policy(tasks: Mapping[str, RatingTask], rating: Rating, policy: str) -> float:
    item = tasks[rating.task].item_of(policy)
    assert item is not None  # noqa: S101 - every task has a text of every policy
    return float((rating.acceptable or ())[item])


def _difference(
    a: Sequence[float],
    b: Sequence[float],
    shares: tuple[Interval, Interval],
    groups: Sequence[str],
    estimator: Estimator,
) -> Interval:
    """Return the paired difference, with limits that are honest also where all prompts agree."""
    paired = paired_difference(a, b, groups, draws=estimator.draws, seed=estimator.seed)
    if not math.isfinite(paired.low) or paired.low < paired.high:
        return paired
    # No prompt differs from another, so the bootstrap would claim certainty. Newcombe 1998, method
    # 10, from the limits of both shares; pairing can only narrow it.
    first, second = shares
    down = math.hypot(first.value - first.low, second.high - second.value)
    up = math.hypot(first.high - first.value, second.value - second.low)
    low, high = max(-1.0, paired.value - down), min(1.0, paired.value + up)
    return Interval(paired.value, low, high, paired.n)
