"""Several labelers on the same pairs: the paper's tables, for any labelers and data.

What makes the rows comparable: all are measured on the pairs that every one of them labeled, with
the paired difference to the first row beside each figure. A labeler that leaves out what is hard
would be flattered by that, so its failures stand beside it, and its alignment on all pairs with a
failure counted as a coin toss.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from rlaif_pl.evaluation.agreement.measure import alignment_of
from rlaif_pl.evaluation.pairs import (
    Array,
    correctness,
    decided,
    judge_counts,
    p_first_of,
    side,
    stripped,
)
from rlaif_pl.labeling.usage.spending import CostComparison, Price, compare_costs
from rlaif_pl.labeling.usage.summary import (
    OutcomeCounts,
    PositionBias,
    count_outcomes,
    position_bias,
)
from rlaif_pl.statistics import Estimator, Interval, cohen_kappa, empty_interval, fleiss_kappa
from rlaif_pl.types import Labeler, Preference

SHARED = ("alignment", "length_baseline", "gain_over_length", "length_matched")  # with a report
MIN_LABELED = 0.5  # share a labeler must label for its failures to shrink the pairs of all rows
GOLD = "gold"  # name of the gold verdicts among the raters


@dataclass(frozen=True, slots=True)
class TableRow:
    """One labeler of a table."""

    name: str  # its name in the table
    labeler: str  # its fingerprint
    # whether it is measured on the pairs all rows share; False where it labeled too few pairs, which
    # would have shrunk everyone's: then on those it labeled
    is_common: bool
    alignment: Interval  # share of pairs on which it favors the gold side; a tie counts half
    # paired difference of alignment to the first row; of no data in the first row
    difference: Interval
    length_baseline: Interval  # alignment of "the longer response wins" on the same pairs
    gain_over_length: Interval  # paired difference of the two
    # alignment where the shorter response has at least 80 % of the longer's length
    length_matched: Interval
    alignment_all: Interval  # alignment on all decided pairs, with a failure counted half
    brier: Interval  # mean squared difference of `p_first` and the gold verdict
    position: PositionBias | None  # position bias; None where the strategy has no orders
    counts: OutcomeCounts  # pairs by what became of them
    cost: CostComparison  # tokens and money a pair, beside what a person's label would cost
    seconds: float  # wall time of labeling all pairs, without answers that were on disk already


@dataclass(frozen=True, slots=True)
class LabelerKappa:
    """Cohen's kappa of two rows, or of a row with the gold verdicts."""

    first: str
    second: str
    kappa: Interval


@dataclass(frozen=True, slots=True)
class AlignmentTable:
    """Labelers side by side."""

    rows: tuple[TableRow, ...]  # the labelers in the order given
    judged: Mapping[str, int]  # decided pairs by who gave the gold verdict
    pairs: int  # decided pairs, which every labeler was given
    common: int  # of these, the pairs that all rows labeled (see `TableRow.is_common`)
    undecided: int  # gold pairs without a decision; nobody was asked about them
    # kappa of every two rows, then of each row with the gold verdicts, on the common pairs
    agreements: tuple[LabelerKappa, ...]
    fleiss: Interval  # Fleiss' kappa of all rows on the common pairs; of no data for a single row


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Labels:
    name: str
    labeler: str
    rows: list[Preference]
    seconds: float


def measure_table(
    labelers: Iterable[tuple[str, Labeler]],
    gold: Sequence[Preference],
    *,
    prices: Price | None = None,
    estimator: Estimator = Estimator(),
    tell: Callable[[str], None] = logger.info,
) -> AlignmentTable:
    """Give gold pairs to several labelers and compare them.

    No labeler sees the verdicts; surplus symbols at the end of a response are removed first.

    Args:
        labelers: Names and labelers; taken one after the other, so that an iterator may build each
            when it is wanted and let go of the last.
        gold: Pairs with a gold ``p_first``; undecided ones are left out and counted.
        prices: The labelers' prices for the cost comparison; None takes what was charged.
        estimator: How intervals are made.
        tell: Told of each labeler that is done.

    Raises:
        ValueError: No pair is decided, no labeler is given or two have one name, or no pair was
            labeled by all.
    """
    kept = decided(gold)
    truth = [gold[i] for i in kept]
    if not truth:
        raise ValueError(
            f"expected gold pairs with a verdict that is no tie, got none among {len(gold)}"
        )
    blind = [replace(stripped(pair), p_first=None, source=None) for pair in truth]
    labels: list[_Labels] = []
    for name, labeler in labelers:
        if name == GOLD or any(name == known.name for known in labels):
            raise ValueError(f"expected a different name for each labeler, got {name!r} again")
        started = time.monotonic()
        answers = labeler.label(blind)
        seconds = time.monotonic() - started
        labels.append(_Labels(name, labeler.fingerprint, answers, seconds))
        missing = count_outcomes(answers).text()
        tell(f"{name}: {len(answers)} pairs in {seconds:.1f} s; no label or tied: {missing}")
    return _tabulate(labels, truth, len(gold) - len(kept), prices, estimator)


def _tabulate(
    labels: Sequence[_Labels],
    truth: Sequence[Preference],
    undecided: int,
    prices: Price | None,
    estimator: Estimator,
) -> AlignmentTable:
    if not labels:
        raise ValueError("expected at least one labeler, got none")
    has = np.array([[row.p_first is not None for row in one.rows] for one in labels])
    full = has.any(1) & (has.mean(1) >= MIN_LABELED)
    common = has[full].all(0)
    if not full.any() or not common.any():
        outcomes = "; ".join(f"{one.name}: {count_outcomes(one.rows).reasons}" for one in labels)
        raise ValueError(
            f"expected pairs labeled by all of {len(labels)} labelers, got none ({outcomes}); "
            "leave out the labelers that fail"
        )
    own = [common if full[n] else has[n] for n in range(len(labels))]
    both = [common if full[n] and full[0] else has[n] & has[0] for n in range(len(labels))]
    rows = tuple(
        _row(one, labels[0], truth, own[n], both[n], bool(full[n]), prices, estimator)
        for n, one in enumerate(labels)
    )
    raters = [one for n, one in enumerate(labels) if full[n]]
    agreements, fleiss = _agreements(raters, truth, common, estimator)
    return AlignmentTable(
        rows, judge_counts(truth), len(truth), int(common.sum()), undecided, agreements, fleiss
    )


def _row(
    one: _Labels,
    first: _Labels,
    truth: Sequence[Preference],
    chosen: NDArray[np.bool_],
    shared: NDArray[np.bool_],
    is_common: bool,
    prices: Price | None,
    estimator: Estimator,
) -> TableRow:
    """Measure one labeler on ``chosen`` pairs, against the first row on ``shared``; both ``(N,)``."""
    groups = np.array([pair.group for pair in truth])
    right, first_right = _right(one.rows, truth), _right(first.rows, truth)
    none = empty_interval()
    own, gold = _pick(one.rows, chosen), _pick(truth, chosen)
    report = alignment_of(own, gold, estimator=estimator) if own else None
    error = (p_first_of(own) - p_first_of(gold)) ** 2 if own else np.zeros(0)
    return TableRow(
        name=one.name,
        labeler=one.labeler,
        is_common=is_common,
        difference=none
        if one is first
        else estimator.share_difference(right[shared], first_right[shared], groups[shared]),
        **{name: getattr(report, name) if report else none for name in SHARED},
        alignment_all=estimator.share(right, groups),
        brier=estimator.share(error, groups[chosen]),
        position=position_bias(one.rows, estimator),
        counts=count_outcomes(one.rows),
        cost=compare_costs(one.rows, prices, estimator),
        seconds=one.seconds,
    )


def _right(labels: Sequence[Preference], truth: Sequence[Preference]) -> Array:
    """1 where a label favors the gold side, 0 where not, 0.5 for ties and failures, ``(N,)``."""
    judged = np.array([0.5 if row.p_first is None else row.p_first for row in labels], np.float64)
    return correctness(side(judged - 0.5), side(p_first_of(truth) - 0.5))


def _pick(rows: Sequence[Preference], chosen: NDArray[np.bool_]) -> list[Preference]:
    return [row for row, wanted in zip(rows, chosen, strict=True) if wanted]


def _agreements(
    raters: Sequence[_Labels],
    truth: Sequence[Preference],
    common: NDArray[np.bool_],
    estimator: Estimator,
) -> tuple[tuple[LabelerKappa, ...], Interval]:
    """Kappa of every two raters and of each with the gold verdicts, and Fleiss' of all raters."""
    groups = [pair.group for pair in _pick(truth, common)]
    sides = {one.name: _sides(_pick(one.rows, common)) for one in raters}
    gold = _sides(_pick(truth, common))
    pairs = [(a, b, sides[a], sides[b]) for a, b in combinations(sides, 2)]
    pairs += [(name, GOLD, own, gold) for name, own in sides.items()]
    agreements = tuple(
        LabelerKappa(a, b, cohen_kappa(left, right, groups, estimator))
        for a, b, left, right in pairs
    )
    if len(sides) < 2:
        return agreements, empty_interval()
    ratings = list(zip(*sides.values(), strict=True))
    return agreements, fleiss_kappa(ratings, groups, estimator)


def _sides(rows: Sequence[Preference]) -> list[float]:
    """Favored sides as categories: 1 first, 0 second, 0.5 neither."""
    sides: list[float] = side(p_first_of(rows) - 0.5).tolist()
    return sides
