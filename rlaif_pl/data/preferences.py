"""Our own files: one JSON object a line, fields as in ``rlaif_pl.types``."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlaif_pl.data.disk_rows import DiskRows
from rlaif_pl.data.files import RawRow, read_rows, write_text
from rlaif_pl.data.records import check, decode_all, encode, group_of
from rlaif_pl.types import Preference, Prompt

__all__ = [
    "LoadedPreferences",
    "gathered",
    "group_of",
    "preferences_from_rows",
    "read_preferences",
    "read_prompts",
    "write_preferences",
    "write_prompts",
]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedPreferences:
    """Preferences with an account of what was left out."""

    # usable rows in file order; those of files are on disk (see `data.disk_rows`)
    rows: Sequence[Preference]
    dropped: dict[str, int] = field(default_factory=dict)  # reason to number of rows left out


def read_preferences(path: str | Path) -> Sequence[Preference]:
    """Read preferences; pairs of identical responses are left out with a warning that counts them.

    Raises:
        ValueError: A field is missing or invalid; names file, line, field and what to do.
    """
    loaded = preferences_from_rows(read_rows(Path(path)))
    for reason, count in loaded.dropped.items():
        logger.warning("%s: left out %d rows: %s", path, count, reason)
    return loaded.rows


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
    write_text(Path(path), _lines(path, rows))


def read_prompts(path: str | Path) -> Sequence[Prompt]:
    """Read prompts (``text``, optionally ``group``, ``reference``); see ``read_preferences``."""
    return DiskRows(prompt for _, prompt in decode_all(Prompt, read_rows(Path(path))))


def write_prompts(path: str | Path, rows: Sequence[Prompt]) -> None:
    """Write prompts, all or none; ValueError for a row that could not be read back."""
    write_text(Path(path), _lines(path, rows))


def _lines(path: str | Path, rows: Iterable[Preference | Prompt]) -> Iterator[str]:
    for number, row in enumerate(rows, start=1):
        check(row, f"{path}:{number}")
        yield encode(row)
