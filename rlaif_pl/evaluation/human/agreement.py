"""How far raters agree with each other and judges with them, what each did, and what the page did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import median

import numpy as np

from rlaif_pl.evaluation.human.records import PEOPLE, Rating, shares_of_best
from rlaif_pl.evaluation.human.tasks import RatingTask
from rlaif_pl.evaluation.human.win_rates import Ranked, win_of
from rlaif_pl.evaluation.pairs import JudgeVerdicts, correctness, side
from rlaif_pl.statistics import (
    Estimator,
    Interval,
    cohen_kappa,
    empty_interval,
    kendall_w,
    rank_correlation,
)

LENGTH = "the longer one wins"


@dataclass(frozen=True, slots=True)
class Concordance:
    """How far people agree on prompts that several ranked."""

    w: Interval  # mean of Kendall's W over prompts, corrected for ties
    chance: float  # what W is on average where all rank at random
    correlation: Interval  # mean Spearman correlation of two people; 0 at chance
    agreement: Interval  # share of pairs of responses on which two people agree; one half at chance


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far a judge agrees with people, on pairs of responses."""

    judge: str  # its name
    # agreement with most people, where they are not split evenly; a tie counts half
    majority: Interval
    person: Interval  # agreement with one person
    pairs: int  # pairs of responses it judged


def concordance(ranked: Sequence[Ranked], estimator: Estimator) -> Concordance:
    """Measure how far people agree; empty where no prompt was ranked by two."""
    shared = [each for each in ranked if len(each.ranks) > 1]
    groups = [each.task.group for each in shared]
    if not shared:
        nothing = empty_interval()
        return Concordance(nothing, float("nan"), nothing, nothing)
    agreeing = []
    for each in shared:
        pairs = combinations(range(len(each.task.items)), 2)
        agreeing.append(float(np.mean([_same_side(each.ranks, i, j) for i, j in pairs])))
    w, w_groups = _finite([kendall_w(each.ranks) for each in shared], groups)
    r, r_groups = _finite([rank_correlation(each.ranks) for each in shared], groups)
    return Concordance(
        estimator.share(w, w_groups),
        float(np.mean([1 / len(each.ranks) for each in shared])),
        estimator.mean(r, r_groups),
        estimator.share(agreeing, groups),
    )


def agreements(
    ranked: Sequence[Ranked], judges: Mapping[str, JudgeVerdicts], estimator: Estimator
) -> list[Agreement]:
    """Hold judges, and the rule that the longer response wins, against people."""
    wins: dict[str, Callable[[str, str, str], float | None]] = {
        name: verdicts.win for name, verdicts in judges.items()
    }
    wins[LENGTH] = lambda _, a, b: float(side(np.array(len(a) - len(b))))
    found = [_agreement(name, list(_rows(ranked, win)), estimator) for name, win in wins.items()]
    return [each for each in found if each.pairs]


def _finite(values: Sequence[float], groups: Sequence[str]) -> tuple[list[float], list[str]]:
    """Leave out prompts of which raters found all texts equal: nothing is to be agreed on there."""
    kept = [(v, g) for v, g in zip(values, groups, strict=True) if np.isfinite(v)]
    return [v for v, _ in kept], [g for _, g in kept]


def _same_side(ranks: Sequence[Sequence[int]], a: int, b: int) -> float:
    """Share of pairs of raters who rank two items alike: the one above, the other, or equal."""
    people = len(ranks)
    sides = Counter(win_of(row, a, b) for row in ranks)
    return sum(n * (n - 1) for n in sides.values()) / (people * (people - 1))


def _agreement(judge: str, rows: list[tuple[str, float, float]], estimator: Estimator) -> Agreement:
    decided = [row for row in rows if row[2] != 0.5]
    wins, shares = (np.array([row[n] for row in decided], np.float64) for n in (1, 2))
    majority = correctness(wins, side(shares - 0.5))
    # the chance that one person, drawn from those who ranked the pair, is on the judge's side
    person = [win * share + (1 - win) * (1 - share) for _, win, share in rows]
    return Agreement(
        judge,
        estimator.share(majority.tolist(), [row[0] for row in decided]),
        estimator.share(person, [row[0] for row in rows]),
        len(rows),
    )


def _rows(
    ranked: Sequence[Ranked], win_of_first: Callable[[str, str, str], float | None]
) -> Iterator[tuple[str, float, float]]:
    """Yield the pairs of responses that a judge judged."""
    for each in ranked:
        for i, j in combinations(range(len(each.task.items)), 2):
            items = each.task.items
            win = win_of_first(each.task.prompt, items[i].text, items[j].text)
            if win is not None:
                yield each.task.group, win, each.share(i, j)


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
    """Return how often the top was ranked best (of k equals, 1/k), and what chance gives."""
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
    kappa = cohen_kappa(*codes, groups, estimator)
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
    return cohen_kappa(first, second, groups, estimator)
