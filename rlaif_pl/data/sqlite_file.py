"""One SQLite file of a known kind: opened safely, refused with a reason, never half written."""

from __future__ import annotations

import json
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

DAMAGED_CELL = (zlib.error, UnicodeDecodeError, json.JSONDecodeError)  # what reading one raises
PATIENCE = 60.0  # seconds to wait for another process


@dataclass(frozen=True, slots=True)
class TableSchema:
    """What a kind of file looks like."""

    kind: str  # its name in messages ("label store")
    version: int  # of the layout, at least 1; raise it with `statements`
    statements: tuple[str, ...]  # SQL that makes an empty file
    setting: str = "file"  # what a user changes to name another file, in messages
    application: int = 0  # SQLite's id of these files; 0 sets none
    # SQL that turns a file of a version into one of the next, by that version, when it is opened
    upgrades: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


class SqliteFile:
    """A file in write-ahead mode whose commits survive a kill or a power cut.

    Several processes of one machine may use it at once, and one thread of each; it must not lie on a
    network file system. ValueError: the file is of another kind or version, or damaged. OSError: it
    cannot be used, for want of room or permission, or held by another program.
    """

    def __init__(self, path: str | Path, layout: TableSchema) -> None:
        self.path = Path(path).expanduser()
        self.layout = layout
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.explained():
            # from whatever thread, one at a time: in a notebook a server's replies come in another
            self.connection = sqlite3.connect(
                self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
            try:
                self._log_ahead()
                self.connection.execute("PRAGMA synchronous=FULL")
                self._prepare()
            except BaseException:
                self.connection.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what SQLite raises inside the block into an error that says what to do."""
        layout = self.layout
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OSError(
                f"expected to use the {layout.kind} {self.path}, got {error}; check that the folder "
                "can be written, the disk has room and no other program holds the file, or name "
                f"another {layout.setting}"
            ) from error
        except (sqlite3.DatabaseError, *DAMAGED_CELL) as error:
            raise ValueError(
                f"expected {self.path} to be a {layout.kind}, got a file that cannot be read "
                f"({error}); move it away (its rows are then made anew) or restore a copy"
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the block does whole, or nothing of it."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:  # a full disk has ended it already
                self.connection.execute("ROLLBACK")
            raise

    def _log_ahead(self) -> None:
        """Switch a new file to write-ahead mode, for which SQLite waits for no lock."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.connection.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
            time.sleep(0.02)

    def _prepare(self) -> None:
        """Make the tables in a new file, upgrade an older one, or refuse what is none of ours."""
        layout = self.layout
        wanted = (layout.version, layout.application)
        if self._found() == wanted:
            return
        with self.transaction():
            if self._found() == wanted:  # another process has made it meanwhile
                return
            version, application = self._found()
            tables = self._number("SELECT COUNT(*) FROM sqlite_master")
            steps = range(version, layout.version)
            if not (tables or version or application):
                statements = layout.statements
            elif application == layout.application and steps and set(steps) <= set(layout.upgrades):
                statements = tuple(each for step in steps for each in layout.upgrades[step])
            else:
                raise ValueError(
                    f"expected {self.path} to be a {layout.kind} of version {layout.version}, got "
                    f"version {version} with {tables} tables (application id {application:#x}); "
                    f"name another {layout.setting}"
                )
            for statement in statements:
                self.connection.execute(statement)
            self.connection.execute(f"PRAGMA application_id={layout.application}")
            self.connection.execute(f"PRAGMA user_version={layout.version}")

    def _found(self) -> tuple[int, int]:
        return self._number("PRAGMA user_version"), self._number("PRAGMA application_id")

    def _number(self, query: str) -> int:
        (value,) = self.connection.execute(query).fetchone()
        return int(value)
