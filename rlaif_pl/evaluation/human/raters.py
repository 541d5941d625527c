"""What each rater did, and whether the place on the page drew them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from rlaif_pl.evaluation.human.order import shares_of_best
from rlaif_pl.evaluation.human.ranked import Estimator
from rlaif_pl.evaluation.human.readers import PEOPLE
from rlaif_pl.evaluation.human.records import Rating
from rlaif_pl.evaluation.human.tasks import Task
from rlaif_pl.statistics import Interval, empty_interval, rank_correlation


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
    """Return each rater's work by name, in the order in which they began.

    Args:
        ratings: Ratings that count, by raters of one kind.
        show_names: Call raters by their names, not by numbers.
        number_of: What stands before the number.
    """
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
    tasks: Mapping[str, Task], ratings: Sequence[Rating], estimator: Estimator
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
