"""A table of labelers for the terminal, for Markdown, and as plain rows for CSV and JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlaif_pl.data.metric_files import write_csv, write_json, write_text
from rlaif_pl.evaluation.agreement.rows import GOLD, AlignmentTable, TableRow
from rlaif_pl.evaluation.gold import judge_metrics, judges_named
from rlaif_pl.statistics import Interval

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


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the printed table.

    Attributes:
        title: Its heading.
        text: What stands in it.
    """

    title: str
    text: Callable[[TableRow], str]


COLUMNS = (
    Column("labeler", lambda row: row.name + ("" if row.is_common else " †")),
    Column("alignment, %", lambda row: _percent(row.alignment)),
    Column("vs first row", lambda row: _points(row.difference)),
    Column("vs length rule", lambda row: _points(row.gain_over_length)),
    Column("at like length, %", lambda row: _percent(row.length_matched)),
    Column("all pairs, %", lambda row: _percent(row.alignment_all)),
    Column("Brier", lambda row: row.brier.number()),
    Column("same slot, %", lambda row: _position(row)),
    Column("no label, ties", lambda row: row.counts.text()),
    Column("tokens/pair", lambda row: _tokens(row)),
    Column("$/pair", lambda row: _dollars(row.cost.ai)),
    Column("s", lambda row: f"{row.seconds:.1f}"),
)


def render(table: AlignmentTable, console: Console, title: str = "Labelers") -> None:
    """Print the table, the agreement between its rows and what to know to read them."""
    printed = Table(title=escape(title), title_justify="left", pad_edge=False, padding=(0, 1, 0, 0))
    for number, column in enumerate(COLUMNS):
        printed.add_column(column.title, justify="right" if number else "left", overflow="fold")
    for row in table.rows:
        # the interval goes under its estimate, so that the table fits a terminal
        cells = [escape(column.text(row).replace(" [", "\n[")) for column in COLUMNS]
        printed.add_row(*cells)
    console.print(printed)
    for note in notes(table):
        console.print(escape(note), highlight=False)
    names = _raters(table)
    if 2 < len(names) <= MOST_RATERS + 1:
        matrix = Table(title="Cohen's kappa", title_justify="left", pad_edge=False)
        matrix.add_column("")
        for name in names[1:]:
            matrix.add_column(escape(name), justify="right", overflow="fold")
        for name, cells in _matrix(table):
            matrix.add_row(escape(name), *(escape(c.replace(" [", "\n[")) for c in cells))
        console.print(matrix)


def notes(table: AlignmentTable) -> list[str]:
    """Return what has to be known to read the table, a sentence each."""
    first = table.rows[0]
    apart = any(not row.is_common for row in table.rows)
    every = "every row without †" if apart else "every row"
    lines = [
        f"Alignment is with {judges_named(table.judged)}.",
        f"{table.common} of {table.pairs} decided pairs were labeled by {every} and are what rows are "
        "compared on; 'all pairs' counts a failure as a coin toss. Brackets: 95 % intervals by prompt.",
        f"'The longer response wins' agrees in {_percent(_reference(table).length_baseline)} % of "
        "them.",
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
        each = ", ".join(f"{row.name} {_times(row.cost.times_cheaper)}" for row in priced)
        lines.append(f"{line}; times cheaper: {each}.")
    else:
        lines.append(f"{line}; no token prices were given, and machine time is not priced.")
    return lines


def to_markdown(table: AlignmentTable) -> str:
    """Return the table, its notes and the agreement between rows as Markdown."""
    header = [column.title for column in COLUMNS]
    rows = [[column.text(row) for column in COLUMNS] for row in table.rows]
    parts = [_markdown(header, rows), "\n".join(f"- {note}" for note in notes(table))]
    names = _raters(table)
    if 2 < len(names) <= MOST_RATERS + 1:
        body = [[name, *cells] for name, cells in _matrix(table)]
        parts.append("Cohen's kappa:\n\n" + _markdown(["", *names[1:]], body))
    return "\n\n".join(parts) + "\n"


def to_records(table: AlignmentTable) -> list[dict[str, object]]:
    """Return a flat record a row; what was not measured is None."""
    return [_record(row) for row in table.rows]


def to_metrics(table: AlignmentTable, prefix: str = "alignment") -> dict[str, float]:
    """Return flat numbers ``prefix/row/name``; what was not measured is left out."""
    metrics: dict[str, float] = {f"{prefix}/pairs": table.pairs, f"{prefix}/common": table.common}
    metrics |= judge_metrics(table.judged, prefix)
    metrics |= table.fleiss.to_metrics(f"{prefix}/fleiss_kappa")
    for agreement in table.agreements:
        name = f"kappa/{slug(agreement.first)}/{slug(agreement.second)}"
        metrics |= agreement.kappa.to_metrics(f"{prefix}/{name}")
    for row, record in zip(table.rows, to_records(table), strict=True):
        for name, value in record.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                metrics[f"{prefix}/{slug(row.name)}/{name}"] = value
    return metrics


def write(table: AlignmentTable, folder: Path | str) -> None:
    """Write ``table.md``, ``rows.csv`` and ``rows.json`` (with the kappas) into a folder."""
    records = to_records(table)
    target = Path(folder)
    write_csv(target / "rows.csv", records)
    write_text(target / "table.md", to_markdown(table))
    for record, row in zip(records, table.rows, strict=True):
        record["order_gap_counts"] = list(row.position.gap_counts) if row.position else None
    kappas = [
        {"first": a.first, "second": a.second, **_limits("kappa", a.kappa)}
        for a in table.agreements
    ]
    content = {"rows": records, "kappas": kappas, **_limits("fleiss_kappa", table.fleiss)}
    write_json(target / "rows.json", content)


def slug(name: str) -> str:
    """Turn a row's name into part of a metric's name."""
    return re.sub(r"[^a-z0-9.]+", "_", name.lower()).strip("_")


def _record(row: TableRow) -> dict[str, object]:
    """Flatten one row."""
    record: dict[str, object] = {"name": row.name, "labeler": row.labeler, "common": row.is_common}
    record["n"] = row.alignment.n
    for name in INTERVALS:
        record |= _limits(name, getattr(row, name))
    record["length_matched_n"] = row.length_matched.n
    position = row.position
    for name in ("same_slot", "first_slot", "position_gap"):
        record |= _limits(name, getattr(position, name) if position else None)
    record["same_slot_p_value"] = _finite(position.p_value) if position else None
    record |= row.counts.to_metrics("count")
    for name in ("read", "written"):
        record |= _limits(f"tokens_{name}_per_pair", getattr(row.cost, name))
    record |= _limits("ai_usd_per_pair", row.cost.ai)
    record |= _limits("human_usd_per_pair", row.cost.human)
    record["seconds"] = row.seconds
    return {name.replace("/", "_"): value for name, value in record.items()}


def _limits(name: str, interval: Interval | None) -> dict[str, object]:
    """Return an interval as three entries that are always there."""
    parts = (interval.value, interval.low, interval.high) if interval else (math.nan,) * 3
    names = (name, f"{name}_low", f"{name}_high")
    return {key: _finite(value) for key, value in zip(names, parts, strict=True)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _raters(table: AlignmentTable) -> list[str]:
    """Names of the matrix: rows, then the gold verdicts."""
    return [*dict.fromkeys(a.first for a in table.agreements), GOLD]


def _matrix(table: AlignmentTable) -> list[tuple[str, list[str]]]:
    """Upper triangle of the kappas as text, a line a row."""
    names = _raters(table)
    known = {(a.first, a.second): a.kappa.number() for a in table.agreements}
    return [(name, [known.get((name, other), "") for other in names[1:]]) for name in names[:-1]]


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    """Lay out a Markdown table, names to the left and numbers to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _reference(table: AlignmentTable) -> TableRow:
    """Return the first row that is measured on the common pairs."""
    return next(row for row in table.rows if row.is_common)


def _times(factor: float) -> str:
    """Write a factor to three digits without an exponent."""
    return f"{factor:,.0f}" if factor >= 100 else f"{factor:.3g}"


def _percent(interval: Interval) -> str:
    """Percentage without its sign, which the column's title has."""
    if not math.isfinite(interval.value):
        return "n/a"
    return interval.percent().replace(" %", "")


def _points(interval: Interval) -> str:
    return interval.points() if math.isfinite(interval.value) else "–"


def _position(row: TableRow) -> str:
    """Share of the same slot, and which slot in how many of these."""
    if row.position is None:
        return "n/a"
    text = _percent(row.position.same_slot)
    first = row.position.first_slot.value
    if not math.isfinite(first):
        return text
    slot, share = (1, first) if first >= 0.5 else (2, 1 - first)
    return f"{text} slot {slot}: {100 * share:.0f}, p = {row.position.p_value:.2g}"


def _tokens(row: TableRow) -> str:
    read, written = row.cost.read.value, row.cost.written.value
    return f"{read:.0f}" + (f" + {written:.0f}" if written else "")


def _dollars(interval: Interval) -> str:
    if not math.isfinite(interval.value) or interval.value == 0:
        return "–"
    return interval.number(".2g")
