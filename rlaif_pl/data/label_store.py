"""Labels on disk, keyed by what decides them, so that none is paid for twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from rlaif_pl.data.label_parts import texts_of, with_label
from rlaif_pl.data.records import decode_fields, finite
from rlaif_pl.data.sqlite_file import SqliteFile, TableSchema
from rlaif_pl.types import Preference, Provenance

TABLE = """
CREATE TABLE IF NOT EXISTS labels (
    key BLOB PRIMARY KEY,
    labeler TEXT NOT NULL,
    p_first REAL,
    source TEXT,
    provenance TEXT NOT NULL
) WITHOUT ROWID
"""
LAYOUT = TableSchema("label store", 1, (TABLE,), setting="store")
IN_MEMORY = ":memory:"  # as SQLite names it
SELECT = "SELECT key, p_first, source, provenance FROM labels WHERE key IN ({marks})"
KEYS_PER_QUERY = 500  # below SQLite's smallest limit on parameters, 999


class LabelStore(SqliteFile):
    """One SQLite file of labels; ``:memory:`` keeps them in memory until it is closed.

    A batch of labels is committed whole. A label that is there is never replaced by a later one, a
    failure is.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, LAYOUT)

    def __len__(self) -> int:
        """Count the stored answers of all labelers, failures included."""
        with self.explained():
            (count,) = self.connection.execute("SELECT COUNT(*) FROM labels").fetchone()
        return int(count)

    def get_many(self, fingerprint: str, pairs: Sequence[Preference]) -> list[Preference | None]:
        """Look labels up by ``Labeler.fingerprint`` and texts.

        Returns:
            In order, the pair with ``p_first``, ``source`` and ``provenance`` filled in (its own
            group, weight and policies kept), or None where this labeler was never asked. A stored
            failure has ``p_first=None`` and ``provenance.failure``.
        """
        keys = [_key(fingerprint, pair) for pair in pairs]
        found: dict[bytes, tuple[float | None, str | None, str]] = {}
        with self.explained():
            for start in range(0, len(keys), KEYS_PER_QUERY):
                part = keys[start : start + KEYS_PER_QUERY]
                marks = ",".join("?" * len(part))
                query = SELECT.format(marks=marks)
                found.update({row[0]: row[1:] for row in self.connection.execute(query, part)})
        return [
            self._filled(pair, found[key]) if key in found else None
            for key, pair in zip(keys, pairs, strict=True)
        ]

    def put(self, fingerprint: str, labeled: Sequence[Preference]) -> None:
        """Commit a batch of answers, all or none; ValueError for a ``p_first`` outside [0, 1]."""
        rows = [self._row(fingerprint, pair) for pair in labeled]
        with self.explained(), self.transaction():
            self.connection.executemany(
                "INSERT INTO labels VALUES (?, ?, ?, ?, ?) ON CONFLICT(key) DO UPDATE SET "
                "p_first=excluded.p_first, source=excluded.source, "
                "provenance=excluded.provenance WHERE labels.p_first IS NULL",
                rows,
            )

    def _row(
        self, fingerprint: str, pair: Preference
    ) -> tuple[bytes, str, float | None, str | None, str]:
        p = pair.p_first
        if p is not None and not 0.0 <= p <= 1.0:
            raise ValueError(
                f"expected p_first in [0, 1], got {p} from {fingerprint}; a labeler that cannot "
                "judge returns None and says why in provenance.failure"
            )
        text = json.dumps(finite(dataclasses.asdict(pair.provenance)), allow_nan=False)
        return _key(fingerprint, pair), fingerprint, p, pair.source, text

    def _filled(self, pair: Preference, stored: tuple[float | None, str | None, str]) -> Preference:
        """Return the pair with a stored answer, keeping what belongs to the pair itself."""
        p_first, source, text = stored
        provenance: Provenance = decode_fields(Provenance, json.loads(text), str(self.path))
        answer = dataclasses.replace(pair, p_first=p_first, source=source, provenance=provenance)  # type: ignore[arg-type]
        return with_label(pair, answer)


def _key(fingerprint: str, pair: Preference) -> bytes:
    """Hash what decides a label; lengths in front keep the parts apart."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (fingerprint, *texts_of(pair)):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()
