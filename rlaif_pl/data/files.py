"""Raw rows of local files, each with the place it came from for error messages."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from rlaif_pl.data.disk import replaced
from rlaif_pl.text import parse_json, shown

PLAIN = (".jsonl", ".json", ".csv", ".tsv")  # also in gzip
SUFFIXES = (*PLAIN, *(f"{each}.gz" for each in PLAIN), ".parquet")
TABLES = (".csv", ".tsv")
SEPARATORS = ";\t|"  # of cells, in files that say to hold commas
READERS_RAISE = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)
DAMAGED = (gzip.BadGzipFile, zlib.error, EOFError)  # what reading a damaged compressed file raises
MARK = "\ufeff"  # byte order mark, once decoded
LONGEST_CELL = 2**26  # characters; bounds what an open quote reads (the csv module's own is 2**17)


class RawRow(NamedTuple):
    """One row as it stands in a file."""

    where: str  # file and line (or row), as error messages name it
    fields: dict[str, object]  # column name to value, unchecked

    def wrong(self, expected: str, got: str, do: str = "fix or remove the row") -> ValueError:
        """Return the error that names the row, what was expected, what came and what to do."""
        return ValueError(f"{self.where}: expected {expected}, got {got}; {do}")


def is_data_file(path: Path) -> bool:
    """Tell whether the name ends like a file that ``read_rows`` understands."""
    return path.name.lower().endswith(SUFFIXES)


def data_files(path: Path, split: str) -> list[Path]:
    """Return the file itself, or those of a folder named after the split (or a single one), sorted.

    Raises:
        FileNotFoundError: Nothing is there, or no file of the folder can be told to be the split.
        ValueError: The file has an unknown ending.
    """
    endings = ", ".join(SUFFIXES)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if is_data_file(file))
        chosen = [file for file in files if file.name.startswith(split)]
        if not chosen and len(files) != 1:
            names = ", ".join(file.name for file in files)
            below = ", ".join(sorted(f"{each.name}/" for each in path.iterdir() if each.is_dir()))
            names = names or "no data file" + f", but the folders {below}" * bool(below)
            raise FileNotFoundError(
                f"expected files of the split {split!r} in {path} (named {split}*, one of {endings}), "
                f"found {names}; name one file{' or a folder' * bool(below)}, or set split"
            )
        return chosen or files
    if not path.exists():
        raise FileNotFoundError(
            f"expected a data file at {path.absolute()}, found nothing; check the name"
        )
    if not is_data_file(path):
        raise ValueError(
            f"expected a file ending in {endings}, got {path}; rename it, if it is one of these, or "
            "write its rows to one, such as JSON lines"
        )
    return [path]


def read_rows(path: Path) -> Iterator[RawRow]:
    r"""Yield the rows of one file in file order; ValueError names file and line.

    Text is UTF-8, or UTF-16 or UTF-32 as the first bytes tell. Line ends of all systems are ``\n``.
    Half a surrogate pair is read as U+FFFD. A ``.json`` file may hold one array or one object a line.
    """
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        yield from _parquet_rows(path)
        return
    try:
        with open_text(path) as file:
            if name.endswith(TABLES):
                yield from _csv_rows(path, file, "\t" if name.endswith(".tsv") else ",")
            else:
                yield from _json_rows(path, file, may_be_array=name.endswith(".json"))
    except UnicodeDecodeError as error:
        raise _undecodable(path, error) from error
    except DAMAGED as error:
        raise ValueError(
            f"{path}: expected UTF-8 text in gzip, got something else ({error}); download it again"
        ) from error


def open_text(path: Path) -> TextIO:
    """Open a text file, compressed or not, in the encoding of its first bytes, with line feeds."""
    stream = _open_bytes(path)  # once: of a pipe the first bytes would be gone
    try:
        # json.detect_encoding knows the marks of UTF-8, -16 and -32, and the latter two without
        encoding = json.detect_encoding(stream.read(4))
        stream.seek(0)
    except BaseException:
        stream.close()
        raise
    return io.TextIOWrapper(stream, encoding=encoding, newline=None)


def read_text(path: Path) -> str:
    """Return a whole text file, as ``open_text`` reads it; ValueError names a line that is no text."""
    with open_text(path) as file:
        try:
            return file.read()
        except UnicodeDecodeError as error:
            raise _undecodable(path, error) from error


def _open_bytes(path: Path) -> BinaryIO:
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    return cast(BinaryIO, opener(path, "rb"))


def _undecodable(path: Path, error: UnicodeDecodeError) -> ValueError:
    """Say what is no UTF-8 in a file, and on which line; nothing of the line in other encodings."""
    line = ""
    # a compressed file may be damaged further on: then it is a line before that, or none is told
    with suppress(*DAMAGED), _open_bytes(path) as stream:
        for number, content in enumerate(stream, start=1):
            try:
                content.decode()
            except UnicodeDecodeError:
                line = f":{number}" if number > 1 or b"\0" not in content else ""
                break
    return ValueError(
        f"{path}{line}: expected UTF-8 text, got bytes that are none ({error.reason}); save the file "
        "as UTF-8"
    )


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines to a file that is either the old one or the whole new one; see ``disk.replaced``."""
    with replaced(path) as file:
        for line in lines:
            file.write((line + "\n").encode())


def _json_rows(path: Path, file: TextIO, may_be_array: bool) -> Iterator[RawRow]:
    head: list[str] = []  # up to the first line that is not blank
    if may_be_array:
        for line in file:
            head.append(line)
            if line.strip():
                break
    if head and head[-1].lstrip().startswith("["):
        items = cast("list[object]", _parse("".join(head) + file.read(), str(path)))
        yield from (_as_row(item, f"{path}[{n}]") for n, item in enumerate(items))
        return
    for number, line in enumerate(itertools.chain(head, file), start=1):
        line = line.lstrip(MARK)  # files that were joined have marks inside
        if line.strip():
            where = f"{path}:{number}"
            yield _as_row(_parse(line, where), where)


def _parse(text: str, where: str) -> object:
    try:
        return parse_json(text)
    except ValueError as error:  # also of a number with thousands of digits
        raise ValueError(
            f"{where}: expected JSON, got something else ({error}); fix or remove it"
        ) from error


def _as_row(item: object, where: str) -> RawRow:
    row = RawRow(where, item if isinstance(item, dict) else {})
    if not isinstance(item, dict):
        expected = "one object with named fields"
        raise row.wrong(expected, shown(item), "write one {...} a row")
    return row


def _csv_rows(path: Path, file: TextIO, separator: str) -> Iterator[RawRow]:
    """Yield a table's rows, named by the line that they begin on; empty cells become None."""
    allow_long_cells()
    reader = csv.DictReader(file, strict=True, delimiter=separator)
    begins = 1
    try:
        names = reader.fieldnames or ()
        _check_header(path, names, separator)
        begins = reader.line_num + 1
        for row in reader:
            found = RawRow(f"{path}:{begins}", {key: value or None for key, value in row.items()})
            if None in row:
                expected = f"{len(names)} cells as in the header"
                raise found.wrong(expected, "more", "quote cells that hold commas")
            yield found
            begins = reader.line_num + 1
    except csv.Error as error:
        what = f"expected CSV ({error}); fix the quoting of the row that begins here"
        if "field limit" in str(error):
            what = (
                f"expected cells of at most {csv.field_size_limit():,} characters, got a longer one; "
                "close the quote that this row opens, or cut the cell"
            )
        raise ValueError(f"{path}:{begins}: {what}") from error


def _check_header(path: Path, names: Sequence[str], separator: str) -> None:
    """Refuse a header with two columns of one name, or one that holds other separators of cells."""
    if twice := [name for name, count in Counter(names).items() if name and count > 1]:
        raise ValueError(
            f"{path}:1: expected a name for each column, got {twice[0]!r} more than once; rename one"
        )
    others = [each for each in SEPARATORS if each != separator and each in "".join(names)]
    if len(names) == 1 and others:
        raise ValueError(
            f"{path}:1: expected {separator!r} between cells, got {others[0]!r}; write the file with "
            "commas, or with tabs as .tsv"
        )


def allow_long_cells() -> None:
    """Let the csv module read cells of up to ``LONGEST_CELL`` characters, in this process."""
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))


@contextmanager
def undamaged(name: str, expected: str, do: str) -> Iterator[None]:
    """Say in a ValueError what pyarrow or ``datasets`` cannot read; their errors are of all kinds.

    Errors of the system, and such as have the name, pass.
    """
    try:
        yield
    except (pa.ArrowException, *READERS_RAISE) as error:
        is_of_system = isinstance(error, OSError) and error.errno is not None
        if is_of_system or name in str(error):
            raise
        reason = next(iter(str(error).splitlines()), "")
        got = f"something else ({type(error).__name__}: {reason})"
        raise ValueError(f"{name}: expected {expected}, got {got}; {do}") from error


def _parquet_rows(path: Path) -> Iterator[RawRow]:
    number = 0
    expected = "a Parquet file", "download it again"
    with undamaged(str(path), *expected), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024):
            for fields in _plain_rows(batch, path, number):
                yield RawRow(f"{path} row {number}", fields)
                number += 1


def _plain_rows(batch: pa.RecordBatch, path: Path, first: int) -> list[dict[str, Any]]:
    """Return a batch as Python values; ``first`` is the number of its first row."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows > 1:  # to name the row
            ones = (_plain_rows(batch.slice(n, 1), path, first + n) for n in range(batch.num_rows))
            return [row for one in ones for row in one]
        raise ValueError(
            f"{path} row {first}: expected UTF-8 text, got bytes that are none ({error.reason}); "
            "write the file again with whole characters"
        ) from error
