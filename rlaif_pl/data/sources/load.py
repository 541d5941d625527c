"""The two ways to read a source: as preferences, or as prompts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from rlaif_pl.data.disk_rows import DiskRows, Row, first_places, key_codes, select
from rlaif_pl.data.files import RawRow
from rlaif_pl.data.preferences import LoadedPreferences, gathered
from rlaif_pl.data.records import decode_all
from rlaif_pl.data.sources.columns import Columns
from rlaif_pl.data.sources.openai_comparisons import read_comparisons
from rlaif_pl.data.sources.rows import WITH_COLUMNS, open_rows
from rlaif_pl.data.sources.source import NAMES, Data, DataSource, Format, memory_rows, named
from rlaif_pl.data.splits import group_position
from rlaif_pl.types import Preference, Prompt

EMBEDDED = ("tiny_tldr", "tiny_requests")  # data sets of the package, each in a folder
FOLDER = Path(__file__).parents[1]
logger = logging.getLogger(__name__)


def load_preferences(data: Data) -> LoadedPreferences:
    """Read pairs of responses, labeled or not, in file order; and why others were left out.

    A string is a name with everything else at its default; records in memory are read like rows.

    Raises:
        FileNotFoundError: A local file is missing.
        OSError: A hub data set cannot be had.
        ValueError: A row is malformed (file, line and field are named), or none is left.
    """
    loaded = _read_pairs(*_opened(data, "pairs"))
    source, rows, dropped = named(data), loaded.rows, dict(loaded.dropped)
    if source.hard_labels:
        ties = sum(row.p_first == 0.5 for row in rows)
        rows = DiskRows(_hard(row) for row in rows if row.p_first != 0.5)
        dropped.update({"tie": ties} if ties else {})
    rows, elsewhere = _in_part(rows, source)
    dropped.update({"in another part": elsewhere} if elsewhere else {})
    if not rows:
        raise ValueError(f"expected pairs in {source.name}, none is left; left out: {dropped}")
    texts = ((row.prompt, row.first, row.second, str(row.p_first)) for row in rows)
    if repeated := len(rows) - len(first_places(key_codes(texts))):
        logger.warning("%s: %d rows repeat another; all are kept", source.name, repeated)
    for reason, count in dropped.items():
        logger.info("%s: left out %d rows: %s", source.name, count, reason)
    return LoadedPreferences(rows[: source.limit], dropped)


def _hard(row: Preference) -> Preference:
    return row if row.p_first is None else replace(row, p_first=float(row.p_first > 0.5))


def load_prompts(data: Data) -> Sequence[Prompt]:
    """Read prompts, each text once a group, in file order, from what ``load_preferences`` takes, too.

    ``reference`` is filled in where the data set has demonstrations.
    """
    found = _all_prompts(data)
    codes = key_codes((prompt.group, prompt.text) for prompt in found)
    places = first_places(codes)
    # a prompt without a reference gives way to the first of the same text that has one
    has_reference = (n for n, prompt in enumerate(found) if prompt.reference is not None)
    with_reference = np.fromiter(has_reference, np.int64)
    known, first = np.unique(codes[with_reference], return_index=True)
    places[known] = with_reference[first]
    return _kept_prompts(data, select(found, places), "prompts")


def load_demonstrations(data: Data) -> Sequence[Prompt]:
    """Read prompts as ``load_prompts``, but each different reference of a prompt once."""
    found = _all_prompts(data, answered=True)
    codes = key_codes((prompt.group, prompt.text, prompt.reference) for prompt in found)
    return _kept_prompts(data, select(found, first_places(codes)), "demonstrations")


def _kept_prompts(data: Data, found: Sequence[Prompt], kind: str) -> Sequence[Prompt]:
    source = named(data)
    kept, elsewhere = _in_part(found, source)
    if not kept:
        raise ValueError(
            f"expected {kind} in {source.name}, there is none ({elsewhere} in another part)"
        )
    return kept[: source.limit]


def _located(source: DataSource, kind: Literal["pairs", "prompts"]) -> DataSource:
    """Name the file that an embedded data set's pairs, or prompts (of pairs, too), are in."""
    folder = source.name.partition("/")[0]
    if folder not in EMBEDDED:
        return source
    kinds = ("pairs", "prompts") if kind == "prompts" else ("pairs",)
    files = {
        f"{folder}/{path.stem}": str(path)
        for each in kinds
        for path in sorted((FOLDER / folder / each).glob("*.jsonl"))
    }
    if source.name not in files:
        raise ValueError(f"expected for {kind} one of {', '.join(files)}, got {source.name!r}")
    return replace(source, name=files[source.name])


def _opened(
    data: Data, kind: Literal["pairs", "prompts"]
) -> tuple[DataSource, Format, Iterator[RawRow]]:
    rows = None if isinstance(data, (DataSource, *NAMES)) else memory_rows(data)
    source = named(data)
    return source, *open_rows(_located(source, kind), rows)


def _read_pairs(source: DataSource, found: Format, rows: Iterable[RawRow]) -> LoadedPreferences:
    if found == "openai_comparisons":
        return read_comparisons(rows, source.confidence, with_title=source.with_title)
    if found in WITH_COLUMNS:
        columns = Columns(source.columns, is_table=found == "columns")
        return LoadedPreferences(*gathered(columns.preference(row, source.seed) for row in rows))
    if found == "preferences":
        return LoadedPreferences(*gathered(pair for _, pair in decode_all(Preference, rows)))
    raise ValueError(
        f"expected pairs of responses in {source.name}, got {found} without responses; sample two "
        "responses a prompt first, or give it as prompts"
    )


def _all_prompts(data: Data, *, answered: bool = False) -> Sequence[Prompt]:
    source, found, rows = _opened(data, "prompts")
    if found == "prompts":
        return DiskRows(prompt for _, prompt in decode_all(Prompt, rows))
    if found not in ("columns", "trl"):
        pairs = _read_pairs(source, found, rows).rows
        return DiskRows(Prompt(pair.prompt, pair.group) for pair in pairs)
    columns = Columns(source.columns, is_table=found == "columns")
    kept, dropped = gathered(columns.prompt(row, answered=answered) for row in rows)
    if dropped:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in dropped.items())
        logger.warning("%s: left out %d rows: %s", source.name, sum(dropped.values()), reasons)
    return kept


def _in_part(rows: Sequence[Row], source: DataSource) -> tuple[Sequence[Row], int]:
    """Keep the rows whose group is in the source's part; also returns how many are not."""
    if source.part is None:
        return rows, 0
    low, high = source.part
    places = (group_position(f"part/{row.group}", 0) for row in rows)
    kept = select(rows, (n for n, place in enumerate(places) if low <= place < high))
    return kept, len(rows) - len(kept)
