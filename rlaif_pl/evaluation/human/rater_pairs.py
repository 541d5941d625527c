"""How far every two raters agree beyond chance: on which text is better, and what is acceptable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from rlaif_pl.evaluation.human.ranked import Estimator
from rlaif_pl.evaluation.human.records import Rating
from rlaif_pl.evaluation.human.tasks import Task
from rlaif_pl.statistics import Interval, cohen_kappa_by_group, empty_interval


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
    tasks: Mapping[str, Task],
    by_rater: Mapping[str, Sequence[Rating]],
    estimator: Estimator,
    most: int = 20,
) -> tuple[list[RaterPair], int]:
    """Compare every two raters who ranked the same prompts, whatever their kind.

    Args:
        tasks: By id.
        by_rater: Ratings by name of the rater.
        estimator: Settings of the intervals.
        most: Keep so many pairs of raters, those with the most prompts in common.

    Returns:
        The pairs of raters, and how many were left out.
    """
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


def _preferences(pairs: Sequence[tuple[Task, Rating, Rating]], estimator: Estimator) -> Interval:
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
    kappa = cohen_kappa_by_group(*codes, groups, estimator.level, estimator.draws, estimator.seed)
    return replace(kappa, n=len(groups) // 2)


def _acceptable(pairs: Sequence[tuple[Task, Rating, Rating]], estimator: Estimator) -> Interval:
    """Kappa over texts of which both said whether they are acceptable."""
    rows = [
        (first, second, task.group)
        for task, a, b in pairs
        if a.acceptable is not None and b.acceptable is not None
        for first, second in zip(a.acceptable, b.acceptable, strict=True)
    ]
    if not rows:
        return empty_interval()
    first, second, groups = zip(*rows, strict=True)
    return cohen_kappa_by_group(
        first, second, groups, estimator.level, estimator.draws, estimator.seed
    )
