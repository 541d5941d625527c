"""Raw rows of a source, wherever it lies, and a look at which format they are in."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rlaif_pl.data.files import TABLES, RawRow, data_files, is_data_file, read_rows, undamaged
from rlaif_pl.data.sources.messages import refuse_written_list
from rlaif_pl.data.sources.source import TEXTS, DataSource, Format
from rlaif_pl.text import MOST_SHOWN

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)
AS_WRITTEN = ("files as `datasets` wrote them", "make or download the data set again")
WITH_COLUMNS: tuple[Format, ...] = ("columns", "hh", "trl")
OPTIONS: dict[str, tuple[Format, ...]] = {  # of a source, with the formats that have them
    "columns": WITH_COLUMNS,
    "confidence": ("openai_comparisons",),
    "with_title": ("openai_comparisons",),
}
SAVED_MARKS = ("dataset_dict.json", "state.json")  # left by datasets' save_to_disk


def open_rows(
    source: DataSource, rows: Iterator[RawRow] | None = None
) -> tuple[Format, Iterator[RawRow]]:
    """Return the format of a source and its rows.

    FileNotFoundError where a file, folder or split is not there, OSError where a hub data set cannot be
    had, ValueError where there is no row, no known format, or an option or column that would be
    ignored.
    """
    rows = _rows(source) if rows is None else rows
    if source.columns:
        rows = _with_columns(rows, source.name, set(source.columns.values()))
    head = next(rows, None)
    if head is None:
        raise ValueError(f"expected rows in {source.name} (split {source.split!r}), it is empty")
    found = source.format
    if found == "auto":
        found = detect(head, source)
        logger.info("%s: reading as %s", source.name, found)
    if found in WITH_COLUMNS:
        theirs = source.columns or {}
        refuse_written_list(head, [theirs.get(name, name) for name in (*TEXTS, "completion")])
    for option, formats in OPTIONS.items():  # those that would be ignored
        if getattr(source, option) not in (None, False, {}) and found not in formats:
            raise ValueError(
                f"expected {option} only with {', '.join(formats)}, {source.name} is {found}; drop it"
            )
    return found, itertools.chain([head], rows)


def detect(row: RawRow, source: DataSource) -> Format:
    """Tell the format from the first row; ValueError if it is none of ours."""
    fields = row.fields
    theirs = source.columns or {}
    chosen, rejected = (theirs.get(name, name) for name in ("chosen", "rejected"))
    has_choice = {chosen, rejected} <= fields.keys()
    # without a prompt, mapped or not, the responses repeat it
    has_prompt = "prompt" in theirs or fields.get("prompt") is not None
    if "messages" in theirs:
        return "trl"
    if theirs and (has_prompt or not has_choice):
        return "columns"
    if {"info", "summaries", "choice"} <= fields.keys():
        return "openai_comparisons"
    if has_choice:
        is_dialogue = isinstance(fields[chosen], str) and fields.get("prompt") is None
        return "hh" if is_dialogue and "\n\nAssistant:" in str(fields[chosen]) else "trl"
    if {"prompt", "first", "second"} <= fields.keys():
        # numbers are text in a table (FILE:LINE), whose first row may have none
        path, _, line = row.where.rpartition(":")
        is_csv = line.isdecimal() and path.lower().removesuffix(".gz").endswith(TABLES)
        in_text = is_csv or "label" in fields or isinstance(fields.get("p_first"), str)
        return "columns" if in_text else "preferences"
    if {"text", "group", "columns"} <= fields.keys():
        return "prompts"  # ours, also where it has `messages`
    if {"prompt", "completion"} <= fields.keys() or "messages" in fields:
        return "trl"
    if "prompt" in fields:
        return "columns"
    if "text" in fields and not {"instruction", "output"} <= fields.keys():
        return "prompts"  # Alpaca's has the answer in it
    raise ValueError(
        f"{row.where}: cannot tell the format from the fields {', '.join(sorted(fields))}; expected "
        "prompt/first/second, prompt/chosen/rejected, prompt/completion, messages, "
        "info/summaries/choice or text; name yours: `columns: {prompt: THEIRS, ...}`, or "
        "`columns: {messages: THEIRS}` for whole conversations"
    )


def _rows(source: DataSource) -> Iterator[RawRow]:
    path = Path(source.name).expanduser()
    if source.create_with is not None and not path.exists():
        raise FileNotFoundError(
            f"expected data at {source.name}, there are none; get them with: {source.create_with}"
        )
    looks_local = is_data_file(path) or source.name.startswith((".", "/", "~"))
    is_text = not looks_local and any(letter.isspace() for letter in source.name)
    if is_text and not os.path.exists(path):  # which Path's refuses for a long text
        raise ValueError(
            "expected a list of texts, or the name of data (a file, a folder, a hub data set), got "
            f"{source.name[:MOST_SHOWN]!r}; put a text into a list, or check the name"
        )
    if any((path / mark).exists() for mark in SAVED_MARKS):
        return _dataset_rows(source, _saved(path, source.split))
    if path.exists() or looks_local or source.name.count("/") > 1:
        return itertools.chain.from_iterable(map(read_rows, data_files(path, source.split)))
    return _dataset_rows(source, _from_hub(source))


def _with_columns(rows: Iterable[RawRow], name: str, wanted: set[str]) -> Iterator[RawRow]:
    """Yield rows, and refuse a misspelt column at their end: as an absent one it would say nothing."""
    seen: set[str] = set()
    for row in rows:
        seen.update(row.fields)
        yield row
    if seen and not wanted <= seen:
        raise ValueError(
            f"expected the columns {', '.join(sorted(wanted - seen))} in {name}, as `columns` says, no "
            f"row has them; there are {', '.join(sorted(seen))}"
        )


def _dataset_rows(source: DataSource, table: datasets.Dataset) -> Iterator[RawRow]:
    with undamaged(source.name, *AS_WRITTEN):
        for number, fields in enumerate(table):
            yield RawRow(f"{source.name} ({source.split}) row {number}", dict(fields))


def _saved(path: Path, split: str) -> datasets.Dataset:
    import datasets  # with pandas; files of all other kinds do without

    with undamaged(str(path), *AS_WRITTEN):
        saved = datasets.load_from_disk(str(path))
    if not isinstance(saved, datasets.DatasetDict):
        return saved
    if split not in saved:
        raise FileNotFoundError(
            f"expected the split {split!r} in {path}, found {', '.join(map(str, saved))}; set split"
        )
    return saved[split]


def _from_hub(source: DataSource) -> datasets.Dataset:
    """Load a split of a hub data set, from its cache where there is no network."""
    import datasets

    try:
        where = {"name": source.subset, "data_dir": source.data_dir, "revision": source.revision}
        return datasets.load_dataset(source.name, split=source.split, **where)
    except (datasets.exceptions.DatasetNotFoundError, OSError) as error:
        raise OSError(
            f"expected a file, a folder or a Hugging Face data set named {source.name!r}, got "
            f"none: {error}; check the name and the network (HF_HUB_OFFLINE must not be 1), or "
            "give the path of a local copy, or put a text into a list"
        ) from error
