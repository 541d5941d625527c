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
from rlaif_pl.evaluation.win_rate import Judged, WinRate, copied_shares, text_measures, win_rate_of
from rlaif_pl.evaluation.win_rates.measure import PolicyColumns, WinMatrix, judge_cells
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
Rows = Sequence[tuple[float, int]]  # a win, and the place of its task


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
    prompts, groups = [r.task.prompt for r in ranked], [r.task.group for r in ranked]
    places = {name: [r.task.item_of(name) for r in ranked] for name in policies}
    texts = {
        name: [[r.task.items[n].text] for r, n in zip(ranked, own, strict=True)]
        for name, own in places.items()
    }
    measures = {name: text_measures(prompts, own) for name, own in texts.items()}

    def rate(judge: str, a: str, b: str, rows: Rows, failures: dict[str, int]) -> WinRate:
        which = [n for _, n in rows]
        chars = [np.array([max(1, len(texts[p][n][0])) for n in which], float) for p in (a, b)]
        wins = np.array([win for win, _ in rows], np.float64)
        failures = {kind: count for kind, count in failures.items() if count}
        judged = Judged(wins, which, chars[0], chars[1], failures, [])
        return win_rate_of(judge, judged, groups, (measures[a], measures[b]), estimator=estimator)

    pairs = list(combinations(policies, 2))
    skipped = sum(each.skipped for each in ranked)
    read = []
    for a, b in pairs:
        both = zip(ranked, places[a], places[b], strict=True)
        rows = [(win_of(row, i, j), n) for n, (r, i, j) in enumerate(both) for row in r.ranks]
        read.append((a, b, rate(readers, a, b, rows, {CANNOT_JUDGE: skipped})))
    cells = judge_cells(readers, read)
    taught: dict[str, Sequence[str]] = {readers: ()}
    for name, verdicts in judges.items():
        judged = {}
        for a, b in pairs:
            found = (
                (0.5 if x == y else verdicts.win(prompt, x, y), n)
                for n, (prompt, (x,), (y,)) in enumerate(
                    zip(prompts, texts[a], texts[b], strict=True)
                )
            )
            judged[a, b] = [(win, n) for win, n in found if win is not None]
        if all(judged.values()):
            taught[name] = verdicts.taught
            rates = [
                (*both, rate(name, *both, rows, {NO_VERDICT: len(ranked) - len(rows)}))
                for both, rows in judged.items()
            ]
            cells += judge_cells(name, rates, verdicts.taught)
    columns = {
        name: PolicyColumns(
            own,
            estimator.mean([word_count(text) for (text,) in own], groups),
            estimator.share(copied_shares(prompts, own), groups),
            unfinished=None,
        )
        for name, own in texts.items()
    }
    return WinMatrix(columns, taught, cells, len(set(groups)))
