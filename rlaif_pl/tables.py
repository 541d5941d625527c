"""Tables: data once, shown in a terminal, as Markdown and, by the report, as HTML; records as CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, cast

from rich.console import Console
from rich.markup import escape as plain
from rich.table import Table as RichTable
from rich.text import Text

from rlaif_pl.statistics.intervals import Interval

Value = str | float | Interval | Text | None
Cell = Value | tuple[Value, ...]
Rows = list[list[Cell]]
Align = Literal["left", "right"]

WIDE = 4  # columns up to which estimate and limits stand side by side in a terminal
NONE = "–"  # what was not measured
PERCENT, POINTS = "%", "+%"  # of shares; the column's title says the unit


@dataclass(frozen=True, slots=True)
class Column:
    """A column."""

    title: str  # its heading, with the unit
    # how numbers and intervals are written: a format such as `.2f`, `%` for a share in percent or
    # `+%` for a difference of shares in points; "" writes numbers as they are
    form: str = ""
    align: Align | None = None  # side of its cells; None: left in the first column, else right


Columns = list[Column | str]


@dataclass(frozen=True, slots=True)
class Table:
    """A table."""

    title: str  # what it shows; "" where nothing is said
    columns: Sequence[Column | str]  # its columns; a text is the title of a plain one
    # cells: text, a number, an interval, None where nothing was measured, or a tuple of these,
    # which stand below each other
    rows: Sequence[Sequence[Cell]]
    total: Sequence[Cell] | None = None  # a last row below a rule

    def __post_init__(self) -> None:
        wrong = [n for n, row in enumerate(self._rows(), 1) if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"expected rows of {len(self.columns)} cells, got others in {wrong}")

    @property
    def header(self) -> list[str]:
        """Titles of the columns."""
        return [column.title for column in self._columns()]

    def lines(self) -> list[list[list[str]]]:
        """Return the rows as text: cells of lines, which stand below each other."""
        columns = self._columns()

        def lines(cell: Cell, form: str) -> list[str]:
            return [_text(value, form) for value in (cell if isinstance(cell, tuple) else (cell,))]

        return [
            [lines(cell, column.form) for cell, column in zip(row, columns, strict=True)]
            for row in self._rows()
        ]

    def cells(self) -> list[list[str]]:
        """Return the rows as text; "; " parts what stands below each other."""
        return [["; ".join(lines) for lines in row] for row in self.lines()]

    def rich(self) -> RichTable:
        """Return it for a terminal; in a wide table, limits stand under their estimate."""
        table = RichTable(title=plain(self.title), title_justify="left")

        def cell_text(lines: Sequence[str]) -> str:
            is_wide = len(self.columns) > WIDE and len(lines) == 1
            return lines[0].replace(" [", "\n[") if is_wide else "\n".join(lines)

        for column in self._columns():
            table.add_column(plain(column.title), justify=column.align or "left", overflow="fold")
        for row, lines in zip(self._rows(), self.lines(), strict=True):
            if row is self.total:
                table.add_section()
            cells = zip(row, lines, strict=True)
            table.add_row(
                *(c if isinstance(c, Text) else plain(cell_text(parts)) for c, parts in cells)
            )
        return table

    def markdown(self) -> str:
        """Return it as Markdown, a row a line."""
        rule = ["---" if column.align == "left" else "---:" for column in self._columns()]
        lines = (
            "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in line) + " |"
            for line in [self.header, rule, *self.cells()]
        )
        return (f"**{self.title}**\n\n" if self.title else "") + "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """Return it as plain values for JSON; ``from_json`` reads them."""
        columns = [asdict(column) for column in self._columns()]
        rows = [[_plain_value(cell) for cell in row] for row in self._rows()]
        return {"title": self.title, "columns": columns, "rows": rows}

    @classmethod
    def from_json(cls, content: Mapping[str, object]) -> Table:
        """Read what ``to_json`` gave, or any error; a total is a row like others."""
        columns = [Column(**column) for column in content["columns"]]  # type: ignore[attr-defined]
        rows = [[_cell(value) for value in row] for row in content["rows"]]  # type: ignore[attr-defined]
        return cls(str(content["title"]), columns, rows)

    def _columns(self) -> list[Column]:
        found = (Column(c) if isinstance(c, str) else c for c in self.columns)
        return [
            replace(column, align=column.align or ("right" if number else "left"))
            for number, column in enumerate(found)
        ]

    def _rows(self) -> list[Sequence[Cell]]:
        return [*self.rows, *([] if self.total is None else [self.total])]


@dataclass(frozen=True, slots=True)
class Page:
    """Tables with what has to be known to read them, as a command prints and writes them."""

    tables: Sequence[Table]
    notes: Sequence[str] = ()  # sentences
    plot: str = ""  # name of a picture in the page's folder; "" where there is none
    caption: str = ""  # of the plot

    def markdown(self) -> str:
        """Return tables, notes and a link to the plot, ready for a page of documentation."""
        parts = [table.markdown() for table in self.tables]
        parts.append("\n".join(f"- {note}" for note in self.notes))
        if self.plot:
            parts.append(f"![{self.caption or self.plot}]({self.plot})")
        return "\n\n".join(part for part in parts if part) + "\n"

    def render(self, console: Console) -> None:
        """Print tables and notes."""
        for table in self.tables:
            console.print(table.rich())
        for note in self.notes:
            console.print(plain(note), highlight=False, soft_wrap=True)

    def to_json(self) -> dict[str, object]:
        """Return it as plain values for JSON."""
        tables = [table.to_json() for table in self.tables]
        notes = list(self.notes)
        return {"tables": tables, "notes": notes, "plot": self.plot, "caption": self.caption}

    @classmethod
    def from_json(cls, content: object) -> Page:
        """Read what ``to_json`` gave. ``ValueError``: it is something else."""
        try:
            tables = [Table.from_json(each) for each in content["tables"]]  # type: ignore[index]
            notes = [str(note) for note in content["notes"]]  # type: ignore[index]
            plot, caption = (str(content[key]) for key in ("plot", "caption"))  # type: ignore[index]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"expected tables, notes, plot and caption, got something else ({error!r}); run the "
                "stage that wrote the file again"
            ) from error
        return cls(tables, notes, plot, caption)


class CsvLines(list[str]):
    r"""Takes rows from a writer of ``csv`` with its usual ``\r\n`` and ends them by ``\n``.

    With ``lineterminator="\n"`` Python 3.11 leaves a carriage return in a cell without quotes, where
    readers see the end of a row.
    """

    def write(self, line: str) -> None:
        """Take one row."""
        self.append(line.removesuffix("\r\n") + "\n")


def csv_text(
    records: Iterable[Mapping[str, object]],
    columns: Sequence[str] | None = None,
    header: bool = True,
) -> str:
    """Return records (values by column) as CSV; None, and what a record lacks, is an empty cell.

    ``columns`` are those of all records by default; a ``header`` has their names.
    """
    rows = list(records)
    lines = CsvLines()
    names = dict.fromkeys(name for row in rows for name in row) if columns is None else columns
    writer = csv.DictWriter(lines, list(names))
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return "".join(lines)


def _text(value: Value, form: str) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NONE
    if isinstance(value, str | Text):
        return str(value)
    scale, spec = {PERCENT: (100.0, ".1f"), POINTS: (100.0, "+.1f")}.get(form, (1.0, form))
    if isinstance(value, Interval):
        return value.text(spec, scale) if math.isfinite(value.value) else NONE
    return f"{scale * value:{spec}}" if form else str(value)


def _plain_value(cell: Cell) -> object:
    """Return a cell for JSON; what is not finite is null."""
    if isinstance(cell, tuple):
        return [_plain_value(value) for value in cell]
    if isinstance(cell, Interval):
        return {**cell.to_record("value"), "n": cell.n}
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else None
    return str(cell) if isinstance(cell, Text) else cell


def _cell(value: object) -> Cell:
    if isinstance(value, list):
        return tuple(cast("Value", _cell(each)) for each in value)
    if isinstance(value, Mapping):
        given = [value[key] for key in ("value", "value_low", "value_high")]
        estimate, low, high = (math.nan if each is None else float(each) for each in given)
        return Interval(estimate, low, high, int(value["n"]))
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"expected text, a number, an interval or null in a cell, got {value!r}")


def duration(seconds: float) -> str:
    """Write a duration: ``4.2 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
