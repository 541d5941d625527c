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

UNREADABLE = (zlib.error, UnicodeDecodeError, json.JSONDecodeError)  # of a cell that is damaged
PATIENCE = 60.0  # seconds to wait for another process


@dataclass(frozen=True, slots=True)
class TableSchema:
    """What a kind of file looks like."""

    kind: str  # its name in messages ("label store")
    version: int  # version of the layout, at least 1; raise it with `statements`
    statements: tuple[str, ...]  # SQL that makes an empty file
    setting: str = "file"  # what a user changes to name another file, in messages
    # SQLite's application id, which tells these files from others; 0 sets none
    application: int = 0
    # SQL that turns a file of a version into one of the next, by that version. A file of an earlier
    # version is brought up to date when it is opened, all at once
    upgrades: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


class SqliteFile:
    """A file in write-ahead mode whose commits survive a kill or a power cut.

    Several processes of one machine may use it at once, and one thread of each. It must not lie on a
    network file system, which the write-ahead log cannot use.

    Raises:
        ValueError: The file is of another kind or version, or damaged.
        OSError: The file cannot be used: no room, no permission, held by another program.
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
            with self.explained():
                self._log_ahead()
                self.connection.execute("PRAGMA synchronous=FULL")
                self._prepare()
        except (OSError, ValueError):
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
        except (sqlite3.DatabaseError, *UNREADABLE) as error:
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
        """Switch a new file to write-ahead mode, in which it stays.

        SQLite waits for no lock here: of two processes that open a new file at once, one is refused.
        """
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
        wanted = (layout.application, layout.version)
        if self._found() == wanted:
            return
        with self.transaction():
            application, version = self._found()  # another process may have made it meanwhile
            if (application, version) == wanted:
                return
            for statement in self._missing(application, version):
                self.connection.execute(statement)
            self.connection.execute(f"PRAGMA application_id={layout.application}")
            self.connection.execute(f"PRAGMA user_version={layout.version}")

    def _missing(self, application: int, version: int) -> Iterator[str]:
        """Yield what makes a new file, or an earlier version, one of the layout."""
        layout = self.layout
        (tables,) = self.connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if not (application or version or tables):
            yield from layout.statements
            return
        steps = range(version, layout.version)
        if application != layout.application or not steps or not set(steps) <= set(layout.upgrades):
            raise ValueError(
                f"expected {self.path} to be a {layout.kind} of version {layout.version}, got "
                f"version {version} with {tables} tables (application id {application:#x}); "
                f"name another {layout.setting}"
            )
        for step in steps:
            yield from layout.upgrades[step]

    def _found(self) -> tuple[int, int]:
        (application,) = self.connection.execute("PRAGMA application_id").fetchone()
        (version,) = self.connection.execute("PRAGMA user_version").fetchone()
        return application, version
