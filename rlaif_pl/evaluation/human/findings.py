"""All that is known of ratings, people's and models' apart: votes, win rates beside those of judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np

from rlaif_pl.data.splits import chosen_is_first
from rlaif_pl.evaluation.human import agreement, records
from rlaif_pl.evaluation.human.records import BY_KIND, PEOPLE, Kind, Rating, Readers
from rlaif_pl.evaluation.human.tasks import Ranked, Tasks, gather, grouped, win_of
from rlaif_pl.evaluation.pairs import Judges, JudgeVerdicts
from rlaif_pl.evaluation.win_rate import Judged, WinRate, copied_shares, text_measures, win_rate_of
from rlaif_pl.evaluation.win_rates.measure import MatrixCell, PolicyColumns, WinMatrix, judge_cells
from rlaif_pl.statistics import Estimator, Interval
from rlaif_pl.text import word_count
from rlaif_pl.types import Preference, Provenance

Rows = Sequence[tuple[float, int]]  # a win, and the place of its task


def preferences_of(
    ranked: Sequence[Ranked], seed: int = 0, readers: Readers = PEOPLE
) -> tuple[list[Preference], dict[str, int]]:
    """Return a preference for every two responses that raters of one kind ranked.

    ``p_first`` is the share of raters who put the first above the second; a tie counts half. Which
    stands first is drawn, so that the side does not tell the policy. Also returned is why others were
    left out, with their number.
    """
    found: list[Preference] = []
    left_out: Counter[str] = Counter()
    for each in ranked:
        task = each.task
        for pair in task.pairs():
            texts = [task.items[n].text for n in pair]
            if not all(text.strip() for text in texts):
                left_out["empty response"] += 1
                continue
            i, j = pair if chosen_is_first(seed, task.id, *texts) else pair[::-1]
            first, second = task.items[i], task.items[j]
            provenance = Provenance(
                first_policy=", ".join(first.policies),
                second_policy=", ".join(second.policies),
                labeler=f"{len(each.ranks)} {readers.plural}",
                strategy="human" if readers is PEOPLE else "blind_ranking",
            )
            share, kind = each.share(i, j), readers.source
            pair_of = Preference(task.prompt, first.text, second.text, task.group, share)
            found.append(replace(pair_of, source=kind, provenance=provenance))
    return found, dict(left_out)


def win_matrix(
    ranked: list[Ranked], policies: Sequence[str], judges: Judges, estimator: Estimator, who: str
) -> WinMatrix:
    """Compare every two policies by raters, called ``who``, and by judges on the same responses.

    ``ranked`` has at least one task. A judge that judged not all pairs of policies is left out.
    """
    prompts, groups = [r.task.prompt for r in ranked], [r.task.group for r in ranked]
    texts = {name: [[r.task.items[r.task.item_of(name)].text] for r in ranked] for name in policies}
    measures = {name: text_measures(prompts, own) for name, own in texts.items()}

    def rate(judge: str, a: str, b: str, rows: Rows, failed: tuple[str, int]) -> WinRate:
        which = [n for _, n in rows]
        chars = [np.array([max(1, len(texts[p][n][0])) for n in which], float) for p in (a, b)]
        wins, (kind, count) = np.array([win for win, _ in rows], float), failed
        failures = {kind: count} if count else {}
        judged = Judged(wins, which, chars[0], chars[1], failures, [])
        return win_rate_of(judge, judged, groups, (measures[a], measures[b]), estimator=estimator)

    cells: list[MatrixCell] = []
    taught: dict[str, Sequence[str]] = {}
    skipped = sum(each.skipped for each in ranked)
    for name, verdicts in [(who, None), *judges.items()]:
        judged = {
            (a, b): [(win, n) for n, r in enumerate(ranked) for win in _wins(r, a, b, verdicts)]
            for a, b in combinations(policies, 2)
        }
        if all(judged.values()):
            taught[name] = verdicts.taught if verdicts else ()
            rates = []
            for (a, b), rows in judged.items():
                missing = "no verdict", len(ranked) - len(rows)
                failed = missing if verdicts else ("cannot judge", skipped)
                rates.append((a, b, rate(name, a, b, rows, failed)))
            cells += judge_cells(name, rates, taught[name])
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


def _wins(ranked: Ranked, a: str, b: str, verdicts: JudgeVerdicts | None) -> list[float]:
    """Return what a judge, or else each rater, says of the responses of two policies."""
    i, j = ranked.task.item_of(a), ranked.task.item_of(b)
    if verdicts is None:
        return [win_of(row, i, j) for row in ranked.ranks]
    texts = (ranked.task.items[n].text for n in (i, j))
    win = 0.5 if i == j else verdicts.win(ranked.task.prompt, *texts)
    return [] if win is None else [win]


class Acceptability(NamedTuple):
    """Shares of acceptable texts; without a policy where nobody was asked."""

    shares: Mapping[str, Interval]  # of each policy's texts, a row a rating; in [0, 1]
    # share of the first policy minus that of the second, over the same ratings
    differences: Mapping[tuple[str, str], Interval]


def acceptability(
    tasks: Tasks, ratings: Sequence[Rating], policies: Sequence[str], estimator: Estimator
) -> Acceptability:
    """Measure what raters of one kind found acceptable; intervals by prompt."""
    said = [rating for rating in ratings if rating.acceptable is not None]
    if not said:
        return Acceptability({}, {})
    groups = [tasks[rating.task].group for rating in said]
    columns = {
        name: [float((r.acceptable or ())[tasks[r.task].item_of(name)]) for r in said]
        for name in policies
    }
    shares = {name: estimator.share(values, groups) for name, values in columns.items()}
    differences = {
        (a, b): estimator.share_difference(columns[a], columns[b], groups)
        for a, b in combinations(policies, 2)
    }
    return Acceptability(shares, differences)


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that is known of the ratings by raters of one kind."""

    readers: Readers  # who they are
    ranked: Sequence[Ranked]  # tasks that they ranked
    matrix: WinMatrix  # win rates by them and by judges
    ranks: Mapping[str, tuple[Interval, Interval]]  # mean rank and share ranked best, by policy
    acceptable: Acceptability
    people: agreement.Concordance  # how far the raters agree
    judges: Sequence[agreement.JudgeAgreement]  # how far judges agree with them
    raters: Mapping[str, agreement.Rater]  # what each rater did, by name without capitals
    # how often the response at the top of the page was ranked best, and what chance gives
    top: tuple[Interval, float]
    tied: int  # rankings with ties
    undone: int  # ratings that were taken back

    @property
    def rankings(self) -> int:
        """Rankings by all raters."""
        return sum(each.ranked for each in self.raters.values())


Raters = Mapping[Kind, Mapping[str, agreement.Rater]]  # by kind and name without capitals


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that is known of a file of ratings."""

    findings: Sequence[Findings]  # by kind of rater, people first; only kinds that ranked something
    raters: Raters
    pairs: Sequence[agreement.RaterPair]  # agreement of every two raters, also of different kinds
    pairs_left_out: int  # pairs of raters for which there was no room


def reading_of(
    tasks: Tasks,
    ratings: Sequence[Rating],
    policies: Sequence[str],
    judges: Judges,
    *,
    show_names: bool = False,
    undone: Mapping[Kind, int] | None = None,
    estimator: Estimator = Estimator(),
) -> Reading:
    """Measure people and models apart. ``ValueError``: nobody has ranked anything."""
    by_kind = {kind: [r for r in ratings if r.kind == kind] for kind in BY_KIND}
    ranking = [kind for kind, given in by_kind.items() if any(r.ranks for r in given)]
    if not ranking:
        raise ValueError(
            f"expected rankings, got none ({len(ratings)} without a ranking); rank some first: "
            "python -m rlaif_pl rate"
        )
    raters = {k: agreement.raters_of(r, show_names, BY_KIND[k].one) for k, r in by_kind.items()}
    found = []
    for kind in ranking:
        given, readers, back = by_kind[kind], BY_KIND[kind], (undone or {}).get(kind, 0)
        ranked = gather(tasks, given)
        one = Findings(
            readers,
            ranked,
            win_matrix(ranked, policies, judges, estimator, readers.plural),
            {name: _ranks(ranked, name, policies, estimator) for name in policies},
            acceptability(tasks, given, policies, estimator),
            agreement.concordance(ranked, estimator),
            agreement.agreements(ranked, judges, estimator),
            raters[kind],
            agreement.first_shown_best(tasks, given, estimator),
            sum(len(set(row)) < len(row) for each in ranked for row in each.ranks),
            back,
        )
        found.append(one)
    by_name = {
        raters[kind][key].name: given
        for kind in ranking
        for key, given in grouped(by_kind[kind], "name").items()
    }
    return Reading(found, raters, *agreement.rater_pairs(tasks, by_name, estimator))


def _ranks(
    ranked: Sequence[Ranked], name: str, policies: Sequence[str], estimator: Estimator
) -> tuple[Interval, Interval]:
    # of policies, not of texts: those who wrote the same text share its places
    rows, place = [], policies.index(name)
    for each in ranked:
        items = [each.task.item_of(policy) for policy in policies]
        rows += [[row[item] for item in items] for row in each.ranks]
    groups = [each.task.group for each in ranked for _ in each.ranks]
    ordered = [records.ranks_by_item(range(len(row)), row, ties=True) for row in rows]
    places = [records.mid_ranks(row)[place] for row in ordered]
    best = [records.shares_of_best(row)[place] for row in ordered]
    return estimator.mean(places, groups), estimator.share(best, groups)
