"""Writes that a full disk, a read-only folder or a kill leaves whole or undone."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

FILE_NAME = re.compile(r"[^./\\\0-\x1f][^/\\\0-\x1f]{0,99}")
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)  # by the disk


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name ``path`` in errors of the system that name none, or the file written beside it."""
    try:
        yield
    except OSError as error:
        beside = str(path.with_name(f".{path.name}."))
        is_nameless = error.filename is None and error.errno in REFUSED
        if error.errno and (is_nameless or str(error.filename).startswith(beside)):
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


@contextmanager
def replaced(path: Path, work: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file beside a path; it takes the path's place, on disk, when the block ends well.

    ``work`` is where to write meanwhile, which no other process may; a kill leaves it there.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if work is None:
            handle, name = tempfile.mkstemp(".partial", f".{path.name}.", path.parent)
            work = Path(name)
        else:
            handle = os.open(work, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(handle, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            mask = os.umask(0o022)  # it can only be read by setting it
            os.umask(mask)
            work.chmod(0o666 & ~mask)
            os.replace(work, path)
        except BaseException:
            with suppress(OSError):
                work.unlink(missing_ok=True)
            raise


def replace_end(path: Path, data: bytes, offset: int | None = None, *, sync: bool = False) -> int:
    """Write bytes in place of a file's end, from ``offset`` on (None: behind it), or none (OSError).

    ``sync`` waits for the disk. Returns where the data begin.
    """
    with naming(path), path.open("r+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        offset = size if offset is None else offset
        file.seek(offset)
        old = file.read()
        try:
            _write_all(file, offset, data)
            if sync:
                os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                _write_all(file, offset, old)
            raise
    return offset


def check_writable(folder: Path) -> None:
    """Make a folder and a file in it, or raise the OSError why not."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def file_named(folder: Path, name: str, ending: str) -> Path:
    """Return a folder's file for a name of a config or data; ValueError if it would lead elsewhere."""
    if not FILE_NAME.fullmatch(name):
        raise ValueError(
            "expected a name of 1 to 100 characters without / and \\ that begins with no dot, since "
            f"it names a file in {folder}, got {name[:120]!r}; give another name"
        )
    return folder / f"{name}{ending}"


def _write_all(file: BinaryIO, offset: int, data: bytes) -> None:
    """Write to an unbuffered file, which may take a part at a time, and cut what follows."""
    file.seek(offset)
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
    file.truncate(offset + len(data))
