"""Tasks with what raters of one kind said of them, and the settings of the intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlaif_pl.evaluation.human.records import Rating
from rlaif_pl.evaluation.human.tasks import Task
from rlaif_pl.statistics import Interval, mean_by_group, proportion_by_group


@dataclass(frozen=True, slots=True)
class Ranked:
    """A task with what raters of one kind said of it."""

    task: Task  # the task
    # rank of each item by each rater, 1 for the best, equal for ties. `(raters, items)`
    ranks: Sequence[tuple[int, ...]]
    skipped: int  # raters who could not judge it

    def share(self, a: int, b: int) -> float:
        """Return the share of raters who rank item ``a`` above item ``b``; a tie counts half."""
        return float(np.mean([win_of(row, a, b) for row in self.ranks]))


def win_of(ranks: Sequence[int], a: int, b: int) -> float:
    """Return 1 where item ``a`` is ranked above item ``b``, 0 where below, 0.5 where they tie."""
    return ((ranks[a] < ranks[b]) - (ranks[a] > ranks[b]) + 1) / 2


@dataclass(frozen=True, slots=True)
class Estimator:
    """Settings of the intervals."""

    level: float = 0.95  # coverage, in (0, 1)
    draws: int = 2000  # bootstrap resamples
    seed: int = 0  # seeds the bootstrap

    def share(self, values: Sequence[float], groups: Sequence[str]) -> Interval:
        """Return the mean of numbers in [0, 1] with its interval by group."""
        return proportion_by_group(values, groups, self.level, self.draws, self.seed)

    def mean(self, values: Sequence[float], groups: Sequence[str]) -> Interval:
        """Return a mean with its interval by group."""
        return mean_by_group(values, groups, self.level, self.draws, self.seed)


def gather(tasks: Mapping[str, Task], ratings: Sequence[Rating]) -> list[Ranked]:
    """Put ratings beside their tasks; tasks that nobody ranked are left out."""
    by_task: dict[str, list[Rating]] = {}
    for rating in ratings:
        by_task.setdefault(rating.task, []).append(rating)
    found = []
    for key, task in tasks.items():
        given = by_task.get(key, [])
        ranks = [rating.ranks for rating in given if rating.ranks is not None]
        if ranks:
            found.append(Ranked(task, ranks, len(given) - len(ranks)))
    return found
