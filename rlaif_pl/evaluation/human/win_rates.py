"""What raters of one kind said of tasks: preferences, and win rates beside those of judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rlaif_pl.data.sides import chosen_is_first
from rlaif_pl.evaluation.human.records import PEOPLE, Rating, Readers
from rlaif_pl.evaluation.human.tasks import RatingTask
from rlaif_pl.evaluation.pairs import JudgeVerdicts
from rlaif_pl.evaluation.win_rate import (
    Judged,
    WinRate,
    copied_shares,
    text_measures,
    win_rate_of,
)
from rlaif_pl.evaluation.win_rates.measure import Cell, PolicyColumns, WinMatrix, judge_cells
from rlaif_pl.statistics import Estimator
from rlaif_pl.text import word_count
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


CANNOT_JUDGE = "cannot judge"
NO_VERDICT = "no verdict"


def win_matrix(
    ranked: Sequence[Ranked],
    policies: Sequence[str],
    judges: Mapping[str, JudgeVerdicts],
    estimator: Estimator,
    readers: str = PEOPLE.plural,
) -> WinMatrix:
    """Compare every two policies by raters and, on the same responses, by judges.

    Args:
        ranked: At least one task that raters of one kind ranked.
        policies: Names of the policies.
        judges: Verdicts by name of the judge; one that judged not all pairs of policies is left out.
        estimator: Settings of the intervals.
        readers: What to call the raters among the judges.
    """
    groups = [each.task.group for each in ranked]
    columns = {name: _columns(ranked, name, groups, estimator) for name in policies}
    cells: list[Cell] = []
    taught: dict[str, Sequence[str]] = {readers: ()}
    read = [
        (a, b, _rate(readers, _by_raters(ranked, a, b), ranked, a, b, estimator))
        for a, b in combinations(policies, 2)
    ]
    cells += judge_cells(readers, read)
    for name, verdicts in judges.items():
        judged = {(a, b): _by_judge(ranked, a, b, verdicts) for a, b in combinations(policies, 2)}
        if all(len(each.wins) for each in judged.values()):
            taught[name] = verdicts.taught
            rates = [
                (a, b, _rate(name, j, ranked, a, b, estimator)) for (a, b), j in judged.items()
            ]
            cells += judge_cells(name, rates, verdicts.taught)
    return WinMatrix(columns, taught, cells, len(set(groups)))


def _by_raters(ranked: Sequence[Ranked], a: str, b: str) -> Judged:
    """A row a rater and task; the same text of both is a tie."""
    rows = []
    for place, each in enumerate(ranked):
        i, j = _places(each.task, a, b)
        rows += [(win_of(row, i, j), place) for row in each.ranks]
    return _judged(ranked, rows, a, b, sum(each.skipped for each in ranked), CANNOT_JUDGE)


def _by_judge(ranked: Sequence[Ranked], a: str, b: str, verdicts: JudgeVerdicts) -> Judged:
    """A row a task that the judge judged."""
    rows, missing = [], 0
    for place, each in enumerate(ranked):
        i, j = _places(each.task, a, b)
        texts = each.task.items[i].text, each.task.items[j].text
        win = 0.5 if i == j else verdicts.win(each.task.prompt, *texts)
        if win is None:
            missing += 1
        else:
            rows.append((win, place))
    return _judged(ranked, rows, a, b, missing, NO_VERDICT)


def _judged(
    ranked: Sequence[Ranked],
    rows: Sequence[tuple[float, int]],
    a: str,
    b: str,
    failures: int,
    kind: str,
) -> Judged:
    lengths = [
        [max(1, len(each.task.items[n].text)) for n in _places(each.task, a, b)] for each in ranked
    ]
    return Judged(
        np.array([win for win, _ in rows], np.float64),
        [place for _, place in rows],
        np.array([lengths[place][0] for _, place in rows], np.float64),
        np.array([lengths[place][1] for _, place in rows], np.float64),
        {kind: failures} if failures else {},
        [],
    )


def _rate(
    judge: str, judged: Judged, ranked: Sequence[Ranked], a: str, b: str, estimator: Estimator
) -> WinRate:
    prompts = [each.task.prompt for each in ranked]
    measures = tuple(text_measures(prompts, _texts(ranked, name)) for name in (a, b))
    return win_rate_of(
        judge,
        judged,
        [each.task.group for each in ranked],
        (measures[0], measures[1]),
        draws=estimator.draws,
        seed=estimator.seed,
    )


def _columns(
    ranked: Sequence[Ranked], policy: str, groups: Sequence[str], estimator: Estimator
) -> PolicyColumns:
    texts = _texts(ranked, policy)
    copied = copied_shares([each.task.prompt for each in ranked], texts)
    return PolicyColumns(
        texts,
        estimator.mean([word_count(text) for (text,) in texts], groups),
        estimator.mean(copied.tolist(), groups),
        unfinished=None,
    )


def _texts(ranked: Sequence[Ranked], policy: str) -> list[list[str]]:
    return [[each.task.items[_places(each.task, policy)[0]].text] for each in ranked]


def _places(task: RatingTask, *policies: str) -> list[int]:
    """Places of the policies' texts; every task has one of each."""
    return [place for name in policies if (place := task.item_of(name)) is not None]
