"""What a table of labelers consists of: rows, agreements and how intervals are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlaif_pl.labeling.usage.cost import CostComparison
from rlaif_pl.labeling.usage.counts import OutcomeCounts
from rlaif_pl.labeling.usage.position import PositionBias
from rlaif_pl.statistics import Interval

GOLD = "gold"  # name of the gold verdicts among the raters


@dataclass(frozen=True, slots=True)
class Resampling:
    """How intervals are made."""

    level: float = 0.95  # coverage, in (0, 1)
    draws: int = 2000  # bootstrap resamples
    seed: int = 0  # seeds them


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
