"""Records on disk: a data set of any size takes a few bytes of memory a row.

They are written in blocks, as JSON, to a file without a name, which is gone with the process.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import operator
import os
import tempfile
import weakref
from abc import abstractmethod
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Generic, cast, overload

import numpy as np
import pyarrow as pa

from rlaif_pl.data.disk import naming
from rlaif_pl.types import Preference, Provenance, Row

BLOCK = 128  # rows written at a time
KEY_BYTES = 16  # of a hash that stands for a row's texts


class _Rows(Sequence[Row], Generic[Row]):
    """A sequence of records that equals any other of the same records, such as a list."""

    @abstractmethod
    def _row(self, number: int) -> Row:
        """Return a row by its place, from 0."""

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return select(self, np.arange(len(self))[index])
        return self._row(range(len(self))[index])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __repr__(self) -> str:
        return f"<{len(self)} rows>"


class DiskRows(_Rows[Row]):
    """Preferences, or prompts, that are kept on disk; grows at its end, no row ever changes.

    Forked processes may read it too. OSError names the folder without room (``TMPDIR``, ``/var/tmp``).
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._tail: list[Row] = []
        self._ends = array("q")  # of the rows in the file, in bytes
        self._file: BinaryIO | None = None
        self._kind: type[Row] | None = None
        for row in rows:
            self.append(row)

    def append(self, row: Row) -> None:
        """Add a row at the end."""
        self._tail.append(row)
        if len(self._tail) == BLOCK:
            self._write_block()

    def __len__(self) -> int:
        return len(self._ends) + len(self._tail)

    def _row(self, number: int) -> Row:
        """Read a row; by its place alone, since forked processes share the file's own."""
        if number >= len(self._ends):
            return self._tail[number - len(self._ends)]
        assert self._file is not None
        assert self._kind is not None
        start = self._ends[number - 1] if number else 0
        values = json.loads(os.pread(self._file.fileno(), self._ends[number] - start, start))
        if self._kind is Preference:
            place = Preference.__slots__.index("provenance")
            values[place] = Provenance(*values[place])
        return self._kind(*values)

    def __reduce__(self) -> tuple[type[DiskRows[Row]], tuple[list[Row]]]:
        """Let another process have a file of its own."""
        return DiskRows, (list(self),)

    def _write_block(self) -> None:
        folder = scratch_folder()
        with naming(Path(folder)):
            if self._file is None:
                self._kind = type(self._tail[0])
                self._file = cast(BinaryIO, tempfile.TemporaryFile(dir=folder, buffering=0))  # noqa: SIM115
                weakref.finalize(self, self._file.close)
            texts = (json.dumps(row, default=_values, ensure_ascii=False) for row in self._tail)
            rows = [text.encode() for text in texts]
            start = end = self._ends[-1] if self._ends else 0
            view = memoryview(b"".join(rows))
            while view:
                written = os.pwrite(self._file.fileno(), view, end)
                end, view = end + written, view[written:]
        ends = itertools.accumulate(map(len, rows), initial=start)
        self._ends.extend(itertools.islice(ends, 1, None))
        self._tail.clear()


class SelectedRows(_Rows[Row]):
    """Some rows of others, in an order of its own; holds 8 bytes a row. See ``select``."""

    def __init__(self, rows: Sequence[Row], places: np.ndarray) -> None:
        self.rows: Sequence[Row] = rows
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def _row(self, number: int) -> Row:
        return self.rows[int(self.places[number])]


def select(rows: Sequence[Row], places: np.ndarray | Iterable[int]) -> Sequence[Row]:
    """Return the rows at some places, in that order."""
    if not isinstance(places, np.ndarray):
        places = np.fromiter(places, np.int64)
    if isinstance(rows, SelectedRows):
        return SelectedRows(rows.rows, rows.places[places])
    return SelectedRows(rows, places)


def scratch_folder() -> str:
    """Return where rows are kept: ``/var/tmp`` is on a disk also where ``/tmp`` is in memory."""
    if not os.environ.get("TMPDIR") and os.access("/var/tmp", os.W_OK):
        return "/var/tmp"
    return tempfile.gettempdir()


def key_codes(keys: Iterable[Sequence[str | None]]) -> np.ndarray:
    """Number rows by the first appearance of their key (of its hash), from 0. ``(N,)`` int32."""
    data = bytearray()
    for key in keys:
        data += hashlib.blake2b(json.dumps(key).encode(), digest_size=KEY_BYTES).digest()
    parts = (pa.binary(KEY_BYTES), len(data) // KEY_BYTES, [None, pa.py_buffer(data)])
    hashes = pa.FixedSizeBinaryArray.from_buffers(*parts)
    return hashes.dictionary_encode().indices.to_numpy()


def first_places(codes: np.ndarray) -> np.ndarray:
    """Return where each number of ``key_codes`` is first. ``(K,)`` int64, ascending."""
    return np.unique(codes, return_index=True)[1]


def _values(record: Any) -> list[object]:
    """Return what is in a record, in the order of its fields."""
    return [getattr(record, name) for name in record.__slots__]
