"""How far raters of one kind agree with each other, and judges with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rlaif_pl.evaluation.human.win_rates import Ranked, win_of
from rlaif_pl.evaluation.pairs import JudgeVerdicts, correctness, side
from rlaif_pl.statistics import Estimator, Interval, empty_interval, kendall_w, rank_correlation

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
    """Make an agreement of group, judge's win and people's share of each pair of responses."""
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
