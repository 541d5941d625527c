"""A table of labelers to read, and as plain rows for CSV and JSON."""

from __future__ import annotations

import math
import re
from pathlib import Path

from rlaif_pl.data.metric_files import write_csv, write_json, write_page
from rlaif_pl.evaluation.agreement.table import GOLD, AlignmentTable, TableRow
from rlaif_pl.evaluation.pairs import judge_metrics, judges_named
from rlaif_pl.labeling.usage.spending import factor
from rlaif_pl.statistics import empty_interval
from rlaif_pl.tables import PERCENT, POINTS, Cell, Column, Columns, Page, Table

INTERVALS = (
    "alignment",
    "difference",
    "length_baseline",
    "gain_over_length",
    "length_matched",
    "alignment_all",
    "brier",
)
MOST_RATERS = 8  # a wider matrix of kappas is left to rows.json


def page_of(table: AlignmentTable, title: str = "Labelers") -> Page:
    """Lay out the table, the agreement between its rows and what to know to read them."""
    columns: Columns = [
        "labeler",
        Column("alignment, %", PERCENT),
        Column("vs first row", POINTS),
        Column("vs length rule", POINTS),
        Column("at like length, %", PERCENT),
        Column("all pairs, %", PERCENT),
        Column("Brier", ".2f"),
        Column("same slot, %", PERCENT),
        "no label, ties",
        "tokens/pair",
        Column("$/pair", ".2g"),
        Column("s", ".1f"),
    ]
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
    return [
        row.name + ("" if row.is_common else " †"),
        row.alignment,
        row.difference,
        row.gain_over_length,
        row.length_matched,
        row.alignment_all,
        row.brier,
        _position(row),
        row.counts.text(),
        f"{read:.0f}" + (f" + {written:.0f}" if written else ""),
        row.cost.ai if row.cost.ai.value else None,
        row.seconds,
    ]


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
