"""CSV files that grow while a run writes them and survive its being killed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rlaif_pl.data.files import allow_long_cells
from rlaif_pl.data.metric_files import write_text
from rlaif_pl.tables import csv_text

Cell = float | int | str


class CsvTable(NamedTuple):
    """Contents of a CSV file."""

    columns: list[str]
    rows: list[dict[str, str]]  # "" where a row has no value for a column


def read_table(path: Path) -> CsvTable:
    """Read a table without a last row that a kill has cut short; no file is an empty table.

    The last column must not be able to end in a line break, or a cut in it could pass unseen.
    """
    text = path.read_bytes().decode() if path.is_file() else ""
    allow_long_cells()
    lines = list(csv.reader(io.StringIO(text, newline="")))
    if lines and not text.endswith("\n"):
        lines.pop()
    columns = lines[0] if lines else []
    whole = [line for line in lines[1:] if len(line) == len(columns)]
    return CsvTable(columns, [dict(zip(columns, line, strict=True)) for line in whole])


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Cell]]) -> None:
    """Write a table at once, replacing the file."""
    write_text(path, csv_text(rows, columns))
