"""Our own files: one JSON object a line, fields as in ``rlaif_pl.types``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlaif_pl.data.disk_rows import DiskRows
from rlaif_pl.data.files import RawRow, write_lines
from rlaif_pl.data.records import check, decode_all, encode
from rlaif_pl.types import Preference, Prompt


@dataclass(frozen=True, slots=True)
class LoadedPreferences:
    """Preferences with an account of what was left out."""

    # usable rows in file order; those of files are on disk (see `data.disk_rows`)
    rows: Sequence[Preference]
    dropped: dict[str, int] = field(default_factory=dict)  # reason to number of rows left out


def preferences_from_rows(rows: Iterable[RawRow]) -> LoadedPreferences:
    """Decode rows in our schema, leaving out pairs of identical responses."""
    return gathered(row for _, row in decode_all(Preference, rows))


def gathered(found: Iterable[Preference | str]) -> LoadedPreferences:
    """Keep pairs of different responses; in place of a pair may stand why it is left out."""
    kept: DiskRows[Preference] = DiskRows()
    dropped: Counter[str] = Counter()
    for pair in found:
        if isinstance(pair, str):
            dropped[pair] += 1
        elif pair.first == pair.second:
            dropped["identical responses"] += 1
        else:
            kept.append(pair)
    return LoadedPreferences(kept, dict(dropped))


def write_preferences(path: str | Path, rows: Sequence[Preference]) -> None:
    """Write preferences, all or none; ValueError for a row that could not be read back."""
    write_lines(Path(path), _lines(path, rows))


def write_prompts(path: str | Path, rows: Sequence[Prompt]) -> None:
    """Write prompts, all or none; ValueError for a row that could not be read back."""
    write_lines(Path(path), _lines(path, rows))


def _lines(path: str | Path, rows: Iterable[Preference | Prompt]) -> Iterator[str]:
    for number, row in enumerate(rows, start=1):
        check(row, f"{path}:{number}")
        yield encode(row)
