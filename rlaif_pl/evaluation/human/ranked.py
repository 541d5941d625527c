"""Tasks with what raters of one kind said of them, as shares, intervals and preferences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rlaif_pl.data.sides import chosen_is_first
from rlaif_pl.evaluation.human.records import PEOPLE, Rating, Readers
from rlaif_pl.evaluation.human.tasks import RatingTask
from rlaif_pl.types import Preference, Provenance


@dataclass(frozen=True, slots=True)
class Ranked:
    """A task with what raters of one kind said of it."""

    task: RatingTask  # the task
    # rank of each item by each rater, 1 for the best, equal for ties. `(raters, items)`
    ranks: Sequence[tuple[int, ...]]
    skipped: int  # raters who could not judge it

    def share(self, a: int, b: int) -> float:
        """Return the share of raters who rank item ``a`` above item ``b``; a tie counts half."""
        return float(np.mean([win_of(row, a, b) for row in self.ranks]))


def win_of(ranks: Sequence[int], a: int, b: int) -> float:
    """Return 1 where item ``a`` is ranked above item ``b``, 0 where below, 0.5 where they tie."""
    return ((ranks[a] < ranks[b]) - (ranks[a] > ranks[b]) + 1) / 2


def gather(tasks: Mapping[str, RatingTask], ratings: Sequence[Rating]) -> list[Ranked]:
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


EMPTY = "empty response"


def preferences_of(
    ranked: Sequence[Ranked], seed: int = 0, readers: Readers = PEOPLE
) -> tuple[list[Preference], dict[str, int]]:
    """Return a preference for every two responses that raters of one kind ranked.

    ``p_first`` is the share of raters who put the first above the second; a tie counts half, and an
    even split is one half.
    Which stands first is drawn, so that the side does not tell the policy.

    Returns:
        Preferences whose source is ``human`` for people and ``reading`` for models, and why others were
        left out, with their number.
    """
    found: list[Preference] = []
    left_out: Counter[str] = Counter()
    for each in ranked:
        task = each.task
        for pair in combinations(range(len(task.items)), 2):
            texts = [task.items[n].text for n in pair]
            if not all(text.strip() for text in texts):
                left_out[EMPTY] += 1
                continue
            i, j = pair if chosen_is_first(seed, task.id, *texts) else pair[::-1]
            first, second = task.items[i], task.items[j]
            provenance = Provenance(
                first_policy=", ".join(first.policies),
                second_policy=", ".join(second.policies),
                labeler=f"{len(each.ranks)} {readers.plural}",
                strategy="human" if readers is PEOPLE else "blind_ranking",
            )
            found.append(
                Preference(
                    task.prompt,
                    first.text,
                    second.text,
                    task.group,
                    p_first=each.share(i, j),
                    source=readers.source,
                    provenance=provenance,
                )
            )
    return found, dict(left_out)
