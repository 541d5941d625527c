"""Labels on disk, keyed by what decides them, so that none is paid for twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeAlias

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
INSERT = (
    "INSERT INTO labels VALUES (?, ?, ?, ?, ?) ON CONFLICT(key) DO UPDATE SET "
    "p_first=excluded.p_first, source=excluded.source, provenance=excluded.provenance "
    "WHERE labels.p_first IS NULL"
)
KEYS_PER_QUERY = 500  # below SQLite's smallest limit on parameters, 999
Texts: TypeAlias = tuple[str, str, str]


def texts_of(pair: Preference) -> Texts:
    """Return what a label depends on: prompt, first and second response."""
    return pair.prompt, pair.first, pair.second


def with_label(pair: Preference, answer: Preference) -> Preference:
    """Return a pair with an answer's label, keeping what belongs to the pair itself."""
    own = pair.provenance
    provenance = replace(
        answer.provenance, first_policy=own.first_policy, second_policy=own.second_policy
    )
    return replace(pair, p_first=answer.p_first, source=answer.source, provenance=provenance)


class LabelStore(SqliteFile):
    """One SQLite file of labels; ``:memory:`` keeps them until it is closed.

    A label that is there is never replaced by a later one, a failure is.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, LAYOUT)

    def __len__(self) -> int:
        """Count the stored answers of all labelers, failures included."""
        with self.explained():
            (count,) = self.connection.execute("SELECT COUNT(*) FROM labels").fetchone()
        return int(count)

    def look_up(
        self, fingerprint: str, pairs: Sequence[Preference]
    ) -> Iterator[tuple[Preference, Preference | None]]:
        """Yield each pair and what a labeler, by its fingerprint, made of it; None if it was not asked.

        A stored failure has ``p_first=None`` and ``provenance.failure``.
        """
        for start in range(0, len(pairs), KEYS_PER_QUERY):
            part = list(pairs[start : start + KEYS_PER_QUERY])
            keys = [_key(fingerprint, pair) for pair in part]
            query = SELECT.format(marks=",".join("?" * len(part)))
            with self.explained():
                found = {row[0]: row[1:] for row in self.connection.execute(query, keys)}
            for key, pair in zip(keys, part, strict=True):
                if key not in found:
                    yield pair, None
                    continue
                p_first, source, text = found[key]
                note: Provenance = decode_fields(Provenance, json.loads(text), str(self.path))
                answer = replace(pair, p_first=p_first, source=source, provenance=note)
                yield pair, with_label(pair, answer)

    def put(self, fingerprint: str, labeled: Sequence[Preference]) -> None:
        """Commit a batch of answers, all or none; ValueError for a ``p_first`` outside [0, 1]."""
        rows = []
        for pair in labeled:
            p = pair.p_first
            if p is not None and not 0.0 <= p <= 1.0:
                raise ValueError(
                    f"expected p_first in [0, 1], got {p} from {fingerprint}; a labeler that cannot "
                    "judge returns None and says why in provenance.failure"
                )
            text = json.dumps(finite(asdict(pair.provenance)), allow_nan=False)
            rows.append((_key(fingerprint, pair), fingerprint, p, pair.source, text))
        with self.explained(), self.transaction():
            self.connection.executemany(INSERT, rows)


def _key(fingerprint: str, pair: Preference) -> bytes:
    """Hash what decides a label; lengths in front keep the parts apart."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (fingerprint, *texts_of(pair)):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()
