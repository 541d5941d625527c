"""What each rater did, whether the place on the page drew them, and how far every two agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import median

import numpy as np

from rlaif_pl.evaluation.human.records import PEOPLE, Rating, shares_of_best
from rlaif_pl.evaluation.human.tasks import RatingTask
from rlaif_pl.statistics import (
    Estimator,
    Interval,
    cohen_kappa,
    empty_interval,
    rank_correlation,
)


@dataclass(frozen=True, slots=True)
class Rater:
    """One rater's work."""

    name: str  # the rater, or a number in place of the name
    ranked: int  # prompts ranked
    skipped: int  # prompts the rater could not judge
    median_seconds: float  # time with a prompt that was ranked; NaN where none was timed
    minutes: float  # time with all of them
    # mean Spearman correlation with others on the same prompts; NaN where there are none
    correlation: float
    shared: int  # rankings of others that is a mean over


def by_rater_of(ratings: Sequence[Rating]) -> dict[str, list[Rating]]:
    """Return ratings by name of the rater, whose capitals do not matter, as the raters began."""
    by_rater: dict[str, list[Rating]] = {}
    for rating in ratings:
        by_rater.setdefault(rating.rater.casefold(), []).append(rating)
    return by_rater


def raters_of(
    ratings: Sequence[Rating], show_names: bool, number_of: str = PEOPLE.one
) -> dict[str, Rater]:
    """Return each rater's work by name, in the order in which they began."""
    by_rater = by_rater_of(ratings)
    by_task: dict[str, list[Rating]] = {}
    for rating in ratings:
        by_task.setdefault(rating.task, []).append(rating)
    found = {}
    for number, (key, given) in enumerate(by_rater.items(), 1):
        ranked = [rating for rating in given if rating.ranks is not None]
        correlations = [
            rank_correlation([rating.ranks, other.ranks])
            for rating in given
            for other in by_task[rating.task]
            if rating.ranks and other.ranks and other.rater.casefold() != key
        ]
        correlations = [value for value in correlations if np.isfinite(value)]
        seconds = [
            rating.seconds for rating in ranked if rating.seconds
        ]  # imported ones may have none
        found[key] = Rater(
            given[0].rater if show_names else f"{number_of} {number}",
            len(ranked),
            len(given) - len(ranked),
            median(seconds) if seconds else float("nan"),
            sum(rating.seconds for rating in given) / 60,
            float(np.mean(correlations)) if correlations else float("nan"),
            len(correlations),
        )
    return found


def first_shown_best(
    tasks: Mapping[str, RatingTask], ratings: Sequence[Rating], estimator: Estimator
) -> tuple[Interval, float]:
    """Return how often the response at the top of the page was ranked best, and what chance gives.

    Orders are drawn at random, so more than chance is a habit of raters. Of k equally good ones at the
    top of a ranking, each counts 1/k.
    """
    ranked = [rating for rating in ratings if rating.ranks is not None]
    if not ranked:
        return empty_interval(), float("nan")
    tops = [shares_of_best(rating.ranks)[rating.shown[0]] for rating in ranked if rating.ranks]
    groups = [tasks[rating.task].group for rating in ranked]
    chance = float(np.mean([1 / len(rating.shown) for rating in ranked]))
    return estimator.share(tops, groups), chance


@dataclass(frozen=True, slots=True)
class RaterPair:
    """Agreement of two raters on the prompts that both ranked."""

    a: str  # one rater, by the name in `names` of `rater_pairs`
    b: str  # the other
    # Cohen's kappa of "the first is better", "the second is", "a tie", over every two texts; `n`
    # counts pairs of texts
    preferences: Interval
    # Cohen's kappa of acceptable or not, over texts that both judged; `n` counts texts
    acceptable: Interval
    prompts: int  # prompts that both ranked


def rater_pairs(
    tasks: Mapping[str, RatingTask],
    by_rater: Mapping[str, Sequence[Rating]],
    estimator: Estimator,
    most: int = 20,
) -> tuple[list[RaterPair], int]:
    """Compare every two raters of the same prompts, of any kind; also how many pairs were left out."""
    ranked = {
        name: {rating.task: rating for rating in given if rating.ranks is not None}
        for name, given in by_rater.items()
    }
    shared = {
        (a, b): [key for key in ranked[a] if key in ranked[b]] for a, b in combinations(ranked, 2)
    }
    both = sorted((pair for pair in shared if shared[pair]), key=lambda pair: -len(shared[pair]))
    found = []
    for a, b in both[:most]:
        pairs = [(tasks[key], ranked[a][key], ranked[b][key]) for key in shared[a, b]]
        kappas = _preferences(pairs, estimator), _acceptable(pairs, estimator)
        found.append(RaterPair(a, b, *kappas, len(pairs)))
    return found, len(both) - len(found)


def _preferences(
    pairs: Sequence[tuple[RatingTask, Rating, Rating]], estimator: Estimator
) -> Interval:
    """Kappa over every two texts, each seen from both sides.

    Which of two texts is the first means nothing. From both sides, both raters call the first better
    as often as the second, so chance does not hang on the order of the policies.
    """
    codes: tuple[list[int], list[int]] = ([], [])
    groups = []
    for task, *ratings in pairs:
        for i, j in combinations(range(len(task.items)), 2):
            for one, other in ((i, j), (j, i)):
                groups.append(task.group)
                for column, rating in zip(codes, ratings, strict=True):
                    ranks = rating.ranks or ()
                    column.append((ranks[one] > ranks[other]) - (ranks[one] < ranks[other]))
    kappa = cohen_kappa(*codes, groups, draws=estimator.draws, seed=estimator.seed)
    return replace(kappa, n=len(groups) // 2)


def _acceptable(
    pairs: Sequence[tuple[RatingTask, Rating, Rating]], estimator: Estimator
) -> Interval:
    rows = [
        (first, second, task.group)
        for task, a, b in pairs
        if a.acceptable is not None and b.acceptable is not None
        for first, second in zip(a.acceptable, b.acceptable, strict=True)
    ]
    if not rows:
        return empty_interval()
    first, second, groups = zip(*rows, strict=True)
    return cohen_kappa(first, second, groups, draws=estimator.draws, seed=estimator.seed)
