"""Raw rows of local files, each with the place it came from for error messages."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".csv", ".csv.gz", ".parquet")


class RawRow(NamedTuple):
    """One row as it stands in a file.

    Attributes:
        where: File and line (or row), as error messages name it.
        fields: Column name to value, unchecked.
    """

    where: str
    fields: dict[str, object]


def is_data_file(path: Path) -> bool:
    """Tell whether the name ends like a file that ``read_rows`` understands."""
    return path.name.endswith(SUFFIXES)


def data_files(path: Path, split: str) -> list[Path]:
    """Return the file itself, or the files of a folder that belong to a split, sorted by name.

    In a folder, files whose name starts with the split count; without any, a single data file does.

    Raises:
        FileNotFoundError: Nothing is there, or no file of the folder can be told to be the split.
        ValueError: The file has an unknown ending.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if is_data_file(file))
        chosen = [file for file in files if file.name.startswith(split)]
        if not chosen and len(files) == 1:
            chosen = files
        if not chosen:
            names = ", ".join(file.name for file in files) or "no data file"
            raise FileNotFoundError(
                f"expected files of the split {split!r} in {path} (named {split}*, one of "
                f"{', '.join(SUFFIXES)}), found {names}; name one file, or set split"
            )
        return chosen
    if not path.exists():
        raise FileNotFoundError(f"expected a data file at {path}, found nothing; check the name")
    if not is_data_file(path):
        raise ValueError(f"expected a file ending in {', '.join(SUFFIXES)}, got {path}; rename it")
    return [path]


def read_rows(path: Path) -> Iterator[RawRow]:
    """Yield the rows of one file in file order.

    A ``.json`` file may hold one array or one object a line.

    Raises:
        ValueError: The file is not what its name says; the message names file and line.
    """
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        yield from _parquet_rows(path)
        return
    opener = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="") as file:
            if name.endswith(".csv"):
                yield from _csv_rows(path, file)
            else:
                yield from _json_rows(path, file, may_be_array=name.endswith(".json"))
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise ValueError(
            f"{path}: expected UTF-8 text{' in gzip' if name != path.name else ''}, got something "
            f"else ({error}); convert the file or download it again"
        ) from error


def write_text(path: Path, lines: Iterable[str]) -> None:
    """Write lines to a file that is either the old one or the whole new one, whatever happens.

    The text goes to a temporary file beside it, is flushed to disk and renamed over it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            for line in lines:
                file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    current = os.umask(0o022)
    os.umask(current)
    return current


def _json_rows(path: Path, file: TextIO, may_be_array: bool) -> Iterator[RawRow]:
    """Yield the objects of JSON lines, or of one JSON array."""
    if may_be_array:
        text = file.read()
        if text.lstrip().startswith("["):
            for n, item in enumerate(_parse(text, str(path))):  # type: ignore[arg-type, var-annotated]
                yield _as_row(item, f"{path}[{n}]")
            return
        file = io.StringIO(text, newline="\n")
    for number, line in enumerate(file, start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield _as_row(_parse(line, where), where)


def _parse(text: str, where: str) -> object:
    """Parse JSON or say where it is broken."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where}: expected JSON, got {text.strip()[:60]!r} ({error}); fix or remove it"
        ) from error


def _as_row(item: object, where: str) -> RawRow:
    """Refuse anything but an object."""
    if not isinstance(item, dict):
        raise ValueError(
            f"{where}: expected one object with named fields, got {type(item).__name__}; "
            "write one {...} a row"
        )
    return RawRow(where, item)


def _csv_rows(path: Path, file: TextIO) -> Iterator[RawRow]:
    """Yield the rows of a CSV file with a header; empty cells become None."""
    reader = csv.DictReader(file, strict=True)
    try:
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row:
                raise ValueError(
                    f"{where}: expected {len(reader.fieldnames or ())} cells as in the header, got "
                    f"more; quote cells that hold commas"
                )
            yield RawRow(where, {key: value or None for key, value in row.items()})
    except csv.Error as error:
        raise ValueError(
            f"{path}:{reader.line_num}: expected CSV ({error}); fix the quoting of this line"
        ) from error


def _parquet_rows(path: Path) -> Iterator[RawRow]:
    """Yield the rows of a Parquet file, a batch at a time."""
    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for fields in batch.to_pylist():
                    yield RawRow(f"{path} row {number}", fields)
                    number += 1
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{path}: expected a Parquet file, got something else ({error}); download it again"
        ) from error
