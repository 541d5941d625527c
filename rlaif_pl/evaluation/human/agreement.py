"""How far raters agree with each other and judges with them, what each did, and what the page did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from statistics import median
from typing import NamedTuple

import numpy as np

from rlaif_pl.evaluation.human.records import Rating, shares_of_best
from rlaif_pl.evaluation.human.tasks import Ranked, RatingTask, Tasks, grouped, win_of
from rlaif_pl.evaluation.pairs import Judges, correctness, side
from rlaif_pl.statistics import Estimator, Interval, cohen_kappa, kendall_w, rank_correlation


class Concordance(NamedTuple):
    """How far people agree on prompts that several ranked."""

    w: Interval  # mean of Kendall's W over prompts, corrected for ties
    chance: float  # what W is on average where all rank at random
    correlation: Interval  # mean Spearman correlation of two people; 0 at chance
    agreement: Interval  # share of pairs of responses on which two people agree; one half at chance


class JudgeAgreement(NamedTuple):
    """How far a judge agrees with people, on pairs of responses."""

    judge: str  # its name
    majority: Interval  # with most people, where they are not split evenly; a tie counts half
    person: Interval  # with one person
    pairs: int  # pairs of responses it judged


def concordance(ranked: Sequence[Ranked], estimator: Estimator) -> Concordance:
    """Measure how far people agree; empty where no prompt was ranked by two."""
    shared = [each for each in ranked if len(each.ranks) > 1]
    groups = [each.task.group for each in shared]
    agreeing = [
        float(np.mean([_alike(each.ranks, i, j) for i, j in each.task.pairs()])) for each in shared
    ]
    w = [kendall_w(each.ranks) for each in shared]
    chances = [1 / len(e.ranks) for e, value in zip(shared, w, strict=True) if np.isfinite(value)]
    return Concordance(
        estimator.share(*_finite(w, groups)),
        float(np.mean(chances)) if chances else float("nan"),
        estimator.mean(*_finite([rank_correlation(each.ranks) for each in shared], groups)),
        estimator.share(agreeing, groups),
    )


def agreements(
    ranked: Sequence[Ranked], judges: Judges, estimator: Estimator
) -> list[JudgeAgreement]:
    """Hold judges, and the rule that the longer response wins, against people."""
    wins: dict[str, Callable[[str, str, str], float | None]]
    wins = {name: verdicts.win for name, verdicts in judges.items()}
    wins["the longer one wins"] = lambda _, a, b: float(side(np.array(len(a) - len(b))))
    found = []
    for name, win_of_first in wins.items():
        rows = []  # of every two responses: the judge's win, raters' share, group
        for each in ranked:
            items = each.task.items
            for i, j in each.task.pairs():
                win = win_of_first(each.task.prompt, items[i].text, items[j].text)
                if win is not None:
                    rows.append((win, each.share(i, j), each.task.group))
        if rows:
            found.append(_agreement(name, rows, estimator))
    return found


def _finite(values: Sequence[float], groups: Sequence[str]) -> tuple[list[float], list[str]]:
    """Leave out prompts of which raters found all texts equal: nothing is to be agreed on there."""
    kept = [(v, g) for v, g in zip(values, groups, strict=True) if np.isfinite(v)]
    return [v for v, _ in kept], [g for _, g in kept]


def _alike(ranks: Sequence[Sequence[int]], a: int, b: int) -> float:
    """Share of pairs of raters who rank two items alike: the one above, the other, or equal."""
    people = len(ranks)
    sides = Counter(win_of(row, a, b) for row in ranks)
    return sum(n * (n - 1) for n in sides.values()) / (people * (people - 1))


def _agreement(
    judge: str, rows: list[tuple[float, float, str]], estimator: Estimator
) -> JudgeAgreement:
    wins, shares = (np.array([row[n] for row in rows], np.float64) for n in (0, 1))
    groups, decided = np.array([row[2] for row in rows]), shares != 0.5
    majority = correctness(wins[decided], side(shares[decided] - 0.5))
    # the chance that one person, drawn from those who ranked the pair, is on the judge's side
    person = wins * shares + (1 - wins) * (1 - shares)
    most = estimator.share(majority, groups[decided])
    return JudgeAgreement(judge, most, estimator.share(person, groups), len(rows))


class Rater(NamedTuple):
    """One rater's work."""

    name: str  # the rater, or a number in place of the name
    ranked: int  # prompts ranked
    skipped: int  # prompts the rater could not judge
    median_seconds: float  # time with a prompt that was ranked; NaN where none was timed
    minutes: float  # time with all of them
    correlation: float  # mean of Spearman's over others' rankings of the same prompts; NaN if none
    shared: int  # how many those are


def raters_of(ratings: Sequence[Rating], show_names: bool, number_of: str) -> dict[str, Rater]:
    """Return each rater's work by name, in the order in which they began."""
    by_task = grouped(ratings, "task")
    found = {}
    for number, (key, given) in enumerate(grouped(ratings, "name").items(), 1):
        ranked = [rating for rating in given if rating.ranks is not None]
        correlations = [
            rank_correlation([rating.ranks, other.ranks])
            for rating in given
            for other in by_task[rating.task]
            if rating.ranks and other.ranks and other.name != key
        ]
        correlations = [value for value in correlations if np.isfinite(value)]
        seconds = [each.seconds for each in ranked if each.seconds]  # imported ones may have none
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
    tasks: Tasks, ratings: Sequence[Rating], estimator: Estimator
) -> tuple[Interval, float]:
    """Return how often the top was ranked best (of k equals, 1/k), and what chance gives."""
    ranked = [rating for rating in ratings if rating.ranks is not None]
    tops = [shares_of_best(rating.ranks)[rating.shown[0]] for rating in ranked if rating.ranks]
    groups = [tasks[rating.task].group for rating in ranked]
    chance = float(np.mean([1 / len(each.shown) for each in ranked])) if ranked else float("nan")
    return estimator.share(tops, groups), chance


Both = tuple[RatingTask, Rating, Rating]


class RaterPair(NamedTuple):
    """Agreement of two raters on the prompts that both ranked."""

    a: str
    b: str
    preferences: Interval  # Cohen's kappa of better, worse or a tie, over `n` pairs of texts
    acceptable: Interval  # Cohen's kappa of acceptable or not, over the `n` texts that both judged
    prompts: int  # prompts that both ranked


def rater_pairs(
    tasks: Tasks, by_rater: Mapping[str, Sequence[Rating]], estimator: Estimator, most: int = 20
) -> tuple[list[RaterPair], int]:
    """Compare every two raters of the same prompts, of any kind; also how many pairs were left out."""
    ranked = {
        name: {rating.task: rating for rating in given if rating.ranks is not None}
        for name, given in by_rater.items()
    }
    both = []
    for a, b in combinations(ranked, 2):
        if keys := [key for key in ranked[a] if key in ranked[b]]:
            both.append((a, b, [(tasks[key], ranked[a][key], ranked[b][key]) for key in keys]))
    both.sort(key=lambda row: -len(row[2]))
    found = [
        RaterPair(a, b, _preferences(pairs, estimator), _acceptable(pairs, estimator), len(pairs))
        for a, b, pairs in both[:most]
    ]
    return found, len(both) - len(found)


def _preferences(pairs: Sequence[Both], estimator: Estimator) -> Interval:
    """Kappa over every two texts, each seen from both sides, as which is the first means nothing."""
    rows = [
        (*(win_of(rating.ranks or (), *sides) for rating in ratings), task.group)
        for task, *ratings in pairs
        for i, j in task.pairs()
        for sides in ((i, j), (j, i))
    ]
    first, second, groups = zip(*rows, strict=True)
    return replace(cohen_kappa(first, second, groups, estimator), n=len(rows) // 2)


def _acceptable(pairs: Sequence[Both], estimator: Estimator) -> Interval:
    both = [(task.group, a.acceptable or (), b.acceptable or ()) for task, a, b in pairs]
    rows = [(group, *each) for group, a, b in both if a and b for each in zip(a, b, strict=True)]
    first, second = ([row[n] for row in rows] for n in (1, 2))
    return cohen_kappa(first, second, [row[0] for row in rows], estimator)
