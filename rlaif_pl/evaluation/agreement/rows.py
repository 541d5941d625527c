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
    """How intervals are made.

    Attributes:
        level: Coverage, in (0, 1).
        draws: Bootstrap resamples.
        seed: Seeds them.
    """

    level: float = 0.95
    draws: int = 2000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TableRow:
    """One labeler of a table.

    Attributes:
        name: Its name in the table.
        labeler: Its fingerprint.
        is_common: Whether it is measured on the pairs all rows share; False where it labeled too few
            pairs, which would have shrunk everyone's: then on those it labeled.
        alignment: Share of pairs on which it favors the gold side; a tie counts half.
        difference: Paired difference of alignment to the first row; of no data in the first row.
        length_baseline: Alignment of "the longer response wins" on the same pairs.
        gain_over_length: Paired difference of the two.
        length_matched: Alignment where the shorter response has at least 80 % of the longer's length.
        alignment_all: Alignment on all decided pairs, with a failure counted half.
        brier: Mean squared difference of ``p_first`` and the gold verdict.
        position: Position bias; None where the strategy has no orders.
        counts: Pairs by what became of them.
        cost: Tokens and money a pair, beside what a person's label would cost.
        seconds: Wall time of labeling all pairs, without answers that were on disk already.
    """

    name: str
    labeler: str
    is_common: bool
    alignment: Interval
    difference: Interval
    length_baseline: Interval
    gain_over_length: Interval
    length_matched: Interval
    alignment_all: Interval
    brier: Interval
    position: PositionBias | None
    counts: OutcomeCounts
    cost: CostComparison
    seconds: float


@dataclass(frozen=True, slots=True)
class LabelerKappa:
    """Cohen's kappa of two rows, or of a row with the gold verdicts."""

    first: str
    second: str
    kappa: Interval


@dataclass(frozen=True, slots=True)
class AlignmentTable:
    """Labelers side by side.

    Attributes:
        rows: The labelers in the order given.
        judged: Decided pairs by who gave the gold verdict.
        pairs: Decided pairs, which every labeler was given.
        common: Of these, the pairs that all rows labeled (see ``TableRow.is_common``).
        undecided: Gold pairs without a decision; nobody was asked about them.
        agreements: Kappa of every two rows, then of each row with the gold verdicts, on the common
            pairs.
        fleiss: Fleiss' kappa of all rows on the common pairs; of no data for a single row.
    """

    rows: tuple[TableRow, ...]
    judged: Mapping[str, int]
    pairs: int
    common: int
    undecided: int
    agreements: tuple[LabelerKappa, ...]
    fleiss: Interval
