"""Labels on disk, keyed by what decides them, so that none is paid for twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rlaif_pl.data.records import decode_fields
from rlaif_pl.types import Preference, Provenance

SCHEMA_VERSION = 1
TABLE = """
CREATE TABLE IF NOT EXISTS labels (
    key BLOB PRIMARY KEY,
    labeler TEXT NOT NULL,
    p_first REAL,
    source TEXT,
    provenance TEXT NOT NULL
) WITHOUT ROWID
"""
SELECT = "SELECT key, p_first, source, provenance FROM labels WHERE key IN ({marks})"
KEYS_PER_QUERY = 500  # below SQLite's smallest limit on parameters, 999


class LabelStore:
    """One SQLite file of labels.

    A batch of labels is committed whole and survives a kill or a power cut. Several processes of
    one machine may use the file at once; a label that is there is never replaced by a later one, a
    failure is. The file must not lie on a network file system, which SQLite's write-ahead log
    cannot use.

    Args:
        path: The file; made with its folder if it is not there. ``~`` is expanded.

    Raises:
        ValueError: The file is no label store, is damaged, or is of another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = sqlite3.connect(self.path, timeout=60.0, isolation_level=None)
        except sqlite3.OperationalError as error:
            raise self._damaged(error) from error
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._prepare()
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise self._damaged(error) from error
        except ValueError:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file; what was put is already committed."""
        self.close()

    def __len__(self) -> int:
        """Count the stored answers of all labelers, failures included."""
        (count,) = self._connection.execute("SELECT COUNT(*) FROM labels").fetchone()
        return int(count)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def get_many(self, fingerprint: str, pairs: Sequence[Preference]) -> list[Preference | None]:
        """Look labels up.

        Args:
            fingerprint: ``Labeler.fingerprint``.
            pairs: What to look up; label, group and weight play no part.

        Returns:
            In order, the pair with ``p_first``, ``source`` and ``provenance`` filled in (its own
            group, weight and policies kept), or None where this labeler was never asked. A stored
            failure has ``p_first=None`` and ``provenance.failure``.
        """
        keys = [_key(fingerprint, pair) for pair in pairs]
        found: dict[bytes, tuple[float | None, str | None, str]] = {}
        try:
            for start in range(0, len(keys), KEYS_PER_QUERY):
                part = keys[start : start + KEYS_PER_QUERY]
                marks = ",".join("?" * len(part))
                query = SELECT.format(marks=marks)
                found.update({row[0]: row[1:] for row in self._connection.execute(query, part)})
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error
        return [
            self._filled(pair, found[key]) if key in found else None
            for key, pair in zip(keys, pairs, strict=True)
        ]

    def put(self, fingerprint: str, labeled: Sequence[Preference]) -> None:
        """Commit a batch of answers, all or none.

        Args:
            fingerprint: ``Labeler.fingerprint`` of who answered.
            labeled: Pairs as the labeler returned them.

        Raises:
            ValueError: A ``p_first`` is outside [0, 1].
        """
        rows = [self._row(fingerprint, pair) for pair in labeled]
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(
                    "INSERT INTO labels VALUES (?, ?, ?, ?, ?) ON CONFLICT(key) DO UPDATE SET "
                    "p_first=excluded.p_first, source=excluded.source, "
                    "provenance=excluded.provenance WHERE labels.p_first IS NULL",
                    rows,
                )
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _prepare(self) -> None:
        """Make the table in a new file, or refuse a file of another version."""
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version == SCHEMA_VERSION:
            return
        self._connection.execute("BEGIN IMMEDIATE")
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        (tables,) = self._connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if version != SCHEMA_VERSION and (version or tables):
            self._connection.execute("ROLLBACK")
            raise ValueError(
                f"expected {self.path} to be a label store of version {SCHEMA_VERSION}, got "
                f"version {version} with {tables} tables; name another label_store"
            )
        self._connection.execute(TABLE)
        self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        self._connection.execute("COMMIT")

    def _row(
        self, fingerprint: str, pair: Preference
    ) -> tuple[bytes, str, float | None, str | None, str]:
        """Return one table row."""
        p = pair.p_first
        if p is not None and not 0.0 <= p <= 1.0:
            raise ValueError(
                f"expected p_first in [0, 1], got {p} from {fingerprint}; a labeler that cannot "
                "judge returns None and says why in provenance.failure"
            )
        provenance = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in dataclasses.asdict(pair.provenance).items()
        }
        text = json.dumps(provenance, allow_nan=False)
        return _key(fingerprint, pair), fingerprint, p, pair.source, text

    def _filled(self, pair: Preference, stored: tuple[float | None, str | None, str]) -> Preference:
        """Return the pair with a stored answer, keeping what belongs to the pair itself."""
        p_first, source, text = stored
        provenance: Provenance = decode_fields(Provenance, json.loads(text), str(self.path))
        own = pair.provenance
        provenance = dataclasses.replace(
            provenance, first_policy=own.first_policy, second_policy=own.second_policy
        )
        return dataclasses.replace(pair, p_first=p_first, source=source, provenance=provenance)  # type: ignore[arg-type]

    def _damaged(self, error: sqlite3.DatabaseError) -> Exception:
        """Build the error for a file that cannot be used."""
        if isinstance(error, sqlite3.OperationalError):
            return OSError(
                f"expected to use the label store {self.path}, got {error}; check that the folder "
                "can be written, the disk has room and no other program holds the file, or name "
                "another label_store"
            )
        return ValueError(
            f"expected {self.path} to be a label store, got a file that SQLite cannot read "
            f"({error}); move it away (labels are then made anew) or restore a copy"
        )


def _key(fingerprint: str, pair: Preference) -> bytes:
    """Hash what decides a label; lengths in front keep the parts apart."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (fingerprint, pair.prompt, pair.first, pair.second):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()
