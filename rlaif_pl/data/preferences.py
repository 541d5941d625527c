"""Our own files: one JSON object a line, fields as in ``rlaif_pl.types``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlaif_pl.data.disk_rows import DiskRows
from rlaif_pl.data.files import write_lines
from rlaif_pl.data.records import check, encode
from rlaif_pl.types import Preference, Row


@dataclass(frozen=True, slots=True)
class LoadedPreferences:
    """Preferences with an account of what was left out."""

    rows: Sequence[Preference]  # usable ones in file order; of files on disk (`data.disk_rows`)
    dropped: dict[str, int] = field(default_factory=dict)  # reason to number of rows left out


def gathered(found: Iterable[Row | str]) -> tuple[DiskRows[Row], dict[str, int]]:
    """Keep rows, pairs if their responses differ; in place of a row may stand why it is left out."""
    kept: DiskRows[Row] = DiskRows()
    dropped: Counter[str] = Counter()
    for row in found:
        if isinstance(row, str):
            dropped[row] += 1
        elif isinstance(row, Preference) and row.first == row.second:
            dropped["identical responses"] += 1
        else:
            kept.append(row)
    return kept, dict(dropped)


def write_preferences(path: str | Path, rows: Iterable[Row]) -> None:
    """Write rows, all or none; ValueError for one that could not be read back."""
    numbered = enumerate(rows, start=1)
    write_lines(Path(path), (encode(check(row, f"{path}:{n}")) for n, row in numbered))


write_prompts = write_preferences
