"""All that is known of ratings, people's and models' apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from rlaif_pl.evaluation.human.agreement import (
    Agreement,
    Concordance,
    Rater,
    RaterPair,
    agreements,
    by_rater_of,
    concordance,
    first_shown_best,
    rater_pairs,
    raters_of,
)
from rlaif_pl.evaluation.human.records import (
    BY_KIND,
    PEOPLE,
    Kind,
    Rating,
    Readers,
    mid_ranks,
    shares_of_best,
)
from rlaif_pl.evaluation.human.tasks import RatingTask
from rlaif_pl.evaluation.human.win_rates import Ranked, gather, win_matrix
from rlaif_pl.evaluation.pairs import JudgeVerdicts
from rlaif_pl.evaluation.win_rates.measure import WinMatrix
from rlaif_pl.statistics import Estimator, Interval


@dataclass(frozen=True, slots=True)
class Acceptability:
    """Shares of acceptable texts; without a policy where nobody was asked."""

    shares: Mapping[str, Interval]  # of each policy's texts, a row a rating; in [0, 1]
    # share of the first policy minus that of the second, over the same ratings
    differences: Mapping[tuple[str, str], Interval]
    ratings: int  # ratings that say what is acceptable


def acceptability(
    tasks: Mapping[str, RatingTask],
    ratings: Sequence[Rating],
    policies: Sequence[str],
    estimator: Estimator,
) -> Acceptability:
    """Measure what raters of one kind found acceptable; intervals by prompt."""
    said = [rating for rating in ratings if rating.acceptable is not None]
    if not said:
        return Acceptability({}, {}, 0)
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
    return Acceptability(shares, differences, len(said))


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that is known of the ratings by raters of one kind."""

    readers: Readers  # who they are
    ranked: Sequence[Ranked]  # tasks that they ranked
    matrix: WinMatrix  # win rates by them and by judges
    ranks: Mapping[str, tuple[Interval, Interval]]  # mean rank and share ranked best, by policy
    acceptable: Acceptability  # shares of acceptable texts
    people: Concordance  # how far the raters agree
    judges: Sequence[Agreement]  # how far judges agree with them
    raters: Mapping[str, Rater]  # what each rater did, by name without capitals
    # how often the response at the top of the page was ranked best, and what chance gives
    top: tuple[Interval, float]
    tied: int  # rankings with ties
    undone: int  # ratings that were taken back

    @property
    def rankings(self) -> int:
        """Rankings by all raters."""
        return sum(each.ranked for each in self.raters.values())


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that is known of a file of ratings."""

    findings: Sequence[Findings]  # by kind of rater, people first; only kinds that ranked something
    # what each rater did, by kind and name without capitals
    raters: Mapping[Kind, Mapping[str, Rater]]
    pairs: Sequence[RaterPair]  # agreement of every two raters, also of different kinds
    pairs_left_out: int  # pairs of raters for which there was no room


def reading_of(
    tasks: Mapping[str, RatingTask],
    ratings: Sequence[Rating],
    policies: Sequence[str],
    judges: Mapping[str, JudgeVerdicts],
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
    raters = {k: raters_of(r, show_names, BY_KIND[k].one) for k, r in by_kind.items()}
    found = [
        findings_of(
            tasks, by_kind[k], policies, judges, raters[k], estimator, (undone or {}).get(k, 0)
        )
        for k in ranking
    ]
    by_name = {
        raters[kind][key].name: given
        for kind in ranking
        for key, given in by_rater_of(by_kind[kind]).items()
    }
    return Reading(found, raters, *rater_pairs(tasks, by_name, estimator))


def findings_of(
    tasks: Mapping[str, RatingTask],
    ratings: Sequence[Rating],
    policies: Sequence[str],
    judges: Mapping[str, JudgeVerdicts],
    raters: Mapping[str, Rater],
    estimator: Estimator,
    undone: int = 0,
) -> Findings:
    """Measure the ratings of one kind of rater; arguments as of ``reading_of``."""
    ranked = gather(tasks, ratings)
    readers = BY_KIND[ratings[0].kind] if ratings else PEOPLE
    return Findings(
        readers,
        ranked,
        win_matrix(ranked, policies, judges, estimator, readers.plural),
        {name: _ranks(ranked, name, estimator) for name in policies},
        acceptability(tasks, ratings, policies, estimator),
        concordance(ranked, estimator),
        agreements(ranked, judges, estimator),
        raters,
        first_shown_best(tasks, ratings, estimator),
        sum(len(set(row)) < len(row) for each in ranked for row in each.ranks),
        undone,
    )


def _ranks(
    ranked: Sequence[Ranked], policy: str, estimator: Estimator
) -> tuple[Interval, Interval]:
    rows = [(row, r.task.item_of(policy), r.task.group) for r in ranked for row in r.ranks]
    groups = [group for _, _, group in rows]
    places = [mid_ranks(row)[item] for row, item, _ in rows]
    best = [shares_of_best(row)[item] for row, item, _ in rows]
    return estimator.mean(places, groups), estimator.share(best, groups)
