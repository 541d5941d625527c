"""Several labelers on the same pairs: the paper's tables, for any labelers and data.

Rows are measured on the pairs that all of them labeled. That flatters a labeler that leaves out what is
hard, so its failures stand beside it, and its alignment on all pairs with a failure as a coin toss.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlaif_pl.data.metric_files import write_csv, write_json, write_page
from rlaif_pl.evaluation.agreement.measure import alignment_of
from rlaif_pl.evaluation.pairs import (
    Pairs,
    blinded,
    correctness,
    decided,
    judge_counts,
    judge_metrics,
    judges_named,
    p_first_of,
    side,
)
from rlaif_pl.labeling.usage import summary
from rlaif_pl.labeling.usage.spending import CostComparison, Price, compare_costs, factor
from rlaif_pl.statistics import Estimator, Interval, cohen_kappa, empty_interval, fleiss_kappa
from rlaif_pl.tables import PERCENT, POINTS, Cell, Column, Columns, Page, Table
from rlaif_pl.types import Labeler, Preference

SHARED = ("alignment", "length_baseline", "gain_over_length", "length_matched")  # with a report
MIN_LABELED = 0.5  # share a labeler must label for its failures to shrink the pairs of all rows
logger = logging.getLogger(__name__)
INTERVALS = ("alignment", "difference", *SHARED[1:], "alignment_all", "brier")
MOST_RATERS = 8  # a wider matrix of kappas is left to rows.json
GOLD = "gold"  # name of the gold verdicts among the raters


@dataclass(frozen=True, slots=True)
class TableRow:
    """One labeler of a table."""

    name: str  # its name in the table
    labeler: str  # its fingerprint
    is_common: bool  # measured on the pairs all rows share, or, if it labeled few, on those it did
    alignment: Interval  # this and three below: see `AlignmentReport`
    difference: Interval  # paired, of alignment to the first row; of no data in the first row
    length_baseline: Interval
    gain_over_length: Interval
    length_matched: Interval
    alignment_all: Interval  # alignment on all decided pairs, with a failure counted half
    brier: Interval  # mean squared difference of `p_first` and the gold verdict
    position: summary.PositionBias | None  # position bias; None where the strategy has no orders
    counts: summary.OutcomeCounts  # pairs by what became of them
    cost: CostComparison  # tokens and money a pair, beside what a person's label would cost
    seconds: float  # wall time of labeling all pairs, without answers that were on disk already


class LabelerKappa(NamedTuple):
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
    agreements: tuple[LabelerKappa, ...]  # of every two rows, then of each with gold; common pairs
    fleiss: Interval  # Fleiss' kappa of all rows on the common pairs; of no data for a single row


class _Labels(NamedTuple):
    name: str
    labeler: str
    rows: list[Preference]
    seconds: float


def measure_table(
    labelers: Iterable[tuple[str, Labeler]],
    gold: Pairs,
    *,
    prices: Price | None = None,
    estimator: Estimator = Estimator(),
    tell: Callable[[str], None] = logger.info,
) -> AlignmentTable:
    """Give gold pairs to several labelers, as ``measure_alignment`` does to one, and compare them.

    Labelers are taken one after the other, so that an iterator may build each when it is wanted and
    let go of the last; ``tell`` is told of each that is done. ``ValueError``: no pair is decided, no
    labeler is given or two have one name, or no pair was labeled by all.
    """
    kept = decided(gold)
    truth = [gold[i] for i in kept]
    if not truth:
        raise ValueError(
            f"expected gold pairs with a verdict that is no tie, got none among {len(gold)}"
        )
    blind = blinded(truth)
    labels: list[_Labels] = []
    for name, labeler in labelers:
        if name == GOLD or any(name == known.name for known in labels):
            raise ValueError(f"expected a different name for each labeler, got {name!r} again")
        started = time.monotonic()
        answers = labeler.label(blind)
        seconds = time.monotonic() - started
        labels.append(_Labels(name, labeler.fingerprint, answers, seconds))
        missing = summary.count_outcomes(answers).text()
        tell(f"{name}: {len(answers)} pairs in {seconds:.1f} s; no label or tied: {missing}")
    return _tabulate(labels, truth, len(gold) - len(kept), prices, estimator)


def _tabulate(
    labels: list[_Labels], truth: Pairs, undecided: int, prices: Price | None, estimator: Estimator
) -> AlignmentTable:
    if not labels:
        raise ValueError("expected at least one labeler, got none")
    gold, groups = p_first_of(truth), np.array([pair.group for pair in truth])
    # (labelers, N), NaN without a label
    judged = np.array([p_first_of(one.rows) for one in labels])
    has = ~np.isnan(judged)
    full = has.any(1) & (has.mean(1) >= MIN_LABELED)
    common = has[full].all(0)
    if not full.any() or not common.any():
        outcomes = "; ".join(f"{x.name}: {summary.count_outcomes(x.rows).reasons}" for x in labels)
        raise ValueError(
            f"expected pairs labeled by all of {len(labels)} labelers, got none ({outcomes}); "
            "leave out the labelers that fail"
        )
    sides = side(np.nan_to_num(judged, nan=0.5) - 0.5)
    right = [correctness(row, side(gold - 0.5)) for row in sides]
    rows = []
    for n, one in enumerate(labels):
        own = common if full[n] else has[n]
        both = common if full[n] and full[0] else has[n] & has[0]
        pairs = [(one.rows[i], truth[i]) for i in map(int, np.flatnonzero(own))]
        report = alignment_of(*zip(*pairs, strict=True), estimator=estimator) if pairs else None
        versus = right[n][both], right[0][both], groups[both]
        row = TableRow(
            name=one.name,
            labeler=one.labeler,
            is_common=bool(full[n]),
            difference=estimator.share_difference(*versus) if n else empty_interval(),
            **{name: getattr(report, name) if report else empty_interval() for name in SHARED},
            alignment_all=estimator.share(right[n], groups),
            brier=estimator.share((judged[n][own] - gold[own]) ** 2, groups[own]),
            position=summary.position_bias(one.rows, estimator),
            counts=summary.count_outcomes(one.rows),
            cost=compare_costs(one.rows, prices, estimator),
            seconds=one.seconds,
        )
        rows.append(row)
    # categories: 1 first, 0 second, 0.5 neither
    named = {labels[n].name: sides[n][common].tolist() for n in np.flatnonzero(full)}
    kappas = _kappas(named, side(gold - 0.5)[common].tolist(), list(groups[common]), estimator)
    counts = judge_counts(truth), len(truth), int(common.sum()), undecided
    return AlignmentTable(tuple(rows), *counts, *kappas)


def _kappas(
    sides: Mapping[str, list[float]], gold: list[float], groups: list[str], estimator: Estimator
) -> tuple[tuple[LabelerKappa, ...], Interval]:
    """Kappa of every two raters and of each with the gold verdicts, and Fleiss' of all raters."""
    pairs = [(a, b, sides[a], sides[b]) for a, b in combinations(sides, 2)]
    pairs += [(name, GOLD, own, gold) for name, own in sides.items()]
    kappas = tuple(LabelerKappa(a, b, cohen_kappa(x, y, groups, estimator)) for a, b, x, y in pairs)
    if len(sides) < 2:
        return kappas, empty_interval()
    return kappas, fleiss_kappa(list(zip(*sides.values(), strict=True)), groups, estimator)


def page_of(table: AlignmentTable, title: str = "Labelers") -> Page:
    """Lay out the table, the agreement between its rows and what to know to read them."""
    columns: Columns = ["labeler", Column("alignment, %", PERCENT), Column("vs first row", POINTS)]
    columns += [Column("vs length rule", POINTS), Column("at like length, %", PERCENT)]
    columns += [Column("all pairs, %", PERCENT), Column("Brier", ".2f")]
    columns += [Column("same slot, %", PERCENT), "no label, ties", "tokens/pair"]
    columns += [Column("$/pair", ".2g"), Column("s", ".1f")]
    tables = [Table(title, columns, [_cells(row) for row in table.rows])]
    names = [*dict.fromkeys(a.first for a in table.agreements), GOLD]
    if 2 < len(names) <= MOST_RATERS + 1:
        known = {(a.first, a.second): a.kappa for a in table.agreements}
        header: Columns = ["", *(Column(name, ".2f") for name in names[1:])]
        body = [[a, *(known.get((a, b), "") for b in names[1:])] for a in names[:-1]]
        tables.append(Table("Cohen's kappa", header, body))
    return Page(tables, notes(table))


def _cells(row: TableRow) -> list[Cell]:
    read, written = row.cost.read.value, row.cost.written.value
    tokens = f"{read:.0f}" + (f" + {written:.0f}" if written else "")
    name, cost = row.name + " †" * (not row.is_common), row.cost.ai if row.cost.ai.value else None
    against_people = [row.alignment, row.difference, row.gain_over_length, row.length_matched]
    others = [row.alignment_all, row.brier, _position(row), row.counts.text(), tokens]
    return [name, *against_people, *others, cost, row.seconds]


def notes(table: AlignmentTable) -> list[str]:
    """Return what has to be known to read the table, a sentence each."""
    first = table.rows[0]
    reference = next(row for row in table.rows if row.is_common)
    apart = any(not row.is_common for row in table.rows)
    every = "every row without †" if apart else "every row"
    lines = [
        f"Alignment is with {judges_named(table.judged)}.",
        f"{table.common} of {table.pairs} decided pairs were labeled by {every} and are what rows are "
        "compared on; 'all pairs' counts a failure as a coin toss. Brackets: 95 % intervals by prompt.",
        f"'The longer response wins' agrees in {reference.length_baseline.percent()} of them.",
    ]
    if apart:
        lines.append("† labeled too few pairs to be compared: measured on those it labeled.")
    if table.undecided:
        lines.append(f"{table.undecided} gold pairs without a decision are left out.")
    if math.isfinite(table.fleiss.value):
        lines.append(f"Fleiss' kappa of all rows: {table.fleiss.number()}.")
    human, words = first.cost.human.value, first.cost.words.value
    line = f"A person would read {words:.0f} words a pair: ${human:.2f} at $0.11 per 50 words"
    priced = [row for row in table.rows if math.isfinite(row.cost.times_cheaper)]
    if priced:
        each = ", ".join(f"{row.name} {factor(row.cost.times_cheaper)}" for row in priced)
        lines.append(f"{line}; times cheaper: {each}.")
    else:
        lines.append(f"{line}; no token prices were given, and machine time is not priced.")
    return lines


def to_metrics(table: AlignmentTable, prefix: str = "alignment") -> dict[str, float]:
    """Return flat numbers ``prefix/row/name``; what was not measured is left out."""
    metrics: dict[str, float] = {f"{prefix}/pairs": table.pairs, f"{prefix}/common": table.common}
    metrics |= judge_metrics(table.judged, prefix)
    metrics |= table.fleiss.to_metrics(f"{prefix}/fleiss_kappa")
    for agreement in table.agreements:
        name = f"kappa/{slug(agreement.first)}/{slug(agreement.second)}"
        metrics |= agreement.kappa.to_metrics(f"{prefix}/{name}")
    for row in table.rows:
        for name, value in _record(row).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                metrics[f"{prefix}/{slug(row.name)}/{name}"] = value
    return metrics


def write(table: AlignmentTable, folder: Path | str) -> None:
    """Write ``table.md``, ``tables.json``, ``rows.csv`` and ``rows.json`` (with the kappas)."""
    records = [_record(row) for row in table.rows]
    target = Path(folder)
    write_csv(target / "rows.csv", records)
    write_page(target, page_of(table), "table.md")
    for record, row in zip(records, table.rows, strict=True):
        record["order_gap_counts"] = list(row.position.gap_counts) if row.position else None
    kappas = [
        {"first": a.first, "second": a.second, **a.kappa.to_record("kappa")}
        for a in table.agreements
    ]
    content = {"rows": records, "kappas": kappas, **table.fleiss.to_record("fleiss_kappa")}
    write_json(target / "rows.json", content)


def slug(name: str) -> str:
    """Turn a row's name into part of a metric's name."""
    return re.sub(r"[^a-z0-9.]+", "_", name.lower()).strip("_")


def _record(row: TableRow) -> dict[str, object]:
    """Flatten a row; what was not measured is None."""
    record: dict[str, object] = {"name": row.name, "labeler": row.labeler, "common": row.is_common}
    record["n"] = row.alignment.n
    for name in INTERVALS:
        record |= getattr(row, name).to_record(name)
    record["length_matched_n"] = row.length_matched.n
    position = row.position
    for name in ("same_slot", "first_slot", "position_gap"):
        record |= (getattr(position, name) if position else empty_interval()).to_record(name)
    is_known = position is not None and math.isfinite(position.p_value)
    record["same_slot_p_value"] = position.p_value if position and is_known else None
    record |= row.counts.to_metrics("count")
    for name in ("read", "written"):
        record |= getattr(row.cost, name).to_record(f"tokens_{name}_per_pair")
    record |= row.cost.ai.to_record("ai_usd_per_pair")
    record |= row.cost.human.to_record("human_usd_per_pair")
    record["seconds"] = row.seconds
    return {name.replace("/", "_"): value for name, value in record.items()}


def _position(row: TableRow) -> Cell:
    """Share of the same slot, and which slot in how many of these."""
    if row.position is None:
        return "n/a"
    same, first = row.position.same_slot, row.position.first_slot.value
    if not math.isfinite(first):
        return same
    slot, share = (1, first) if first >= 0.5 else (2, 1 - first)
    return same, f"slot {slot}: {100 * share:.0f}, p = {row.position.p_value:.2g}"
