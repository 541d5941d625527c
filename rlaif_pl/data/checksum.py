"""A checksum inside a checkpoint: SHA-256 of the archive, in the comment that ends every ZIP file.

Inside, so that both take their place in one rename and are copied together. No torch here: `run` looks
at checkpoints too.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from pathlib import Path
from typing import BinaryIO

END = b"PK\x05\x06"  # begins the last record of a ZIP file
END_SIZE = 22  # bytes of that record, of which the last two are the comment's length
MARK = b"rlaif_pl sha256="
COMMENT_SIZE = len(MARK) + 64
SEAL = struct.pack("<H", COMMENT_SIZE) + MARK  # how the last record ends, before the sum
PREVIOUS = ".previous"  # before the ending: last.previous.ckpt
CHUNK = 2**20
PART = re.compile(r"rank(\d+)of(\d+)\.ckpt")  # file of a checkpoint that is a folder


class DamagedFileError(ValueError):
    """A file that is not what was written, or that something else wrote."""


def seal(file: BinaryIO, digest: str) -> None:
    """Write a checksum behind a finished ZIP archive without a comment."""
    file.seek(-2, os.SEEK_END)
    file.write(SEAL + digest.encode())


def verify(path: Path) -> bool:
    """Compare a file with its checksum; False where the archive is whole but has none.

    DamagedFileError, whose message is to stand behind the file's name: it is empty, no ZIP archive,
    cut, or other bytes than were written.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if not size:
            raise DamagedFileError("an empty file")
        if head.startswith(b"\x80"):
            raise DamagedFileError("a pickle, which would run code of whoever wrote it when read")
        if not head.startswith(b"PK\x03\x04"):
            raise DamagedFileError(f"a file of another kind, which begins with {head!r}")
        ends = max(0, size - END_SIZE - COMMENT_SIZE)
        file.seek(ends)
        tail = file.read()
        if not (tail.startswith(END) and tail[END_SIZE - 2 :].startswith(SEAL)):
            if tail[-END_SIZE:].startswith(END) and tail.endswith(b"\0\0"):  # and no comment
                return False
            raise DamagedFileError(
                f"an archive without its end ({size:,} bytes): cut, or not written to its end"
            )
        file.seek(0)
        digest = hashlib.sha256()
        left = size - COMMENT_SIZE - 2
        while left:
            chunk = file.read(min(CHUNK, left))
            digest.update(chunk)
            left -= len(chunk)
        digest.update(b"\0\0")  # the comment's length, as it was when the sum was taken
    written = tail[END_SIZE + len(MARK) :].decode("ascii", "replace")
    if digest.hexdigest() != written:
        raise DamagedFileError(
            f"other bytes than were written: SHA-256 is {digest.hexdigest()[:12]}..., expected "
            f"{written[:12]}..."
        )
    return True


def previous_of(path: Path) -> Path:
    """Return where the file that a checkpoint replaced is kept."""
    return path.with_name(f"{path.stem}{PREVIOUS}{path.suffix}")


def part_name(rank: int, ranks: int) -> str:
    """Return the name of a process's file in a checkpoint that is a folder."""
    return f"rank{rank}of{ranks}.ckpt"


def parts_of(path: Path) -> list[Path]:
    """Return the files of a checkpoint that is a folder, by rank; DamagedFileError if not one each."""
    found = [match for file in path.iterdir() if (match := PART.fullmatch(file.name))]
    ranks = max((int(match[2]) for match in found), default=0)
    expected = [part_name(rank, ranks) for rank in range(ranks)]
    missing = set(expected) ^ {match[0] for match in found}
    if not ranks or missing:
        odd = ", ".join(sorted(missing)[:3]) or "rank*of*.ckpt"
        raise DamagedFileError(f"a folder without the file of each process ({odd})")
    return [path / name for name in expected]


def is_whole(path: Path) -> bool:
    """Tell whether a checkpoint can be read to its end and is as it was written."""
    try:
        for file in parts_of(path) if path.is_dir() else [path]:
            verify(file)
    except (DamagedFileError, OSError):
        return False
    return True
