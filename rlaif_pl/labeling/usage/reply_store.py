"""Every call to a model on disk, so that none is paid for twice and all can be looked at later."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from rlaif_pl.data.failures import is_asked_again
from rlaif_pl.data.sqlite_file import SqliteFile, TableSchema
from rlaif_pl.labeling.calls import Call, Response, kind_of

APPLICATION = 0x524C4149  # "RLAI", tells these files from other SQLite files
# Of a ``Response``, in its order.
NAMES = (
    "logprobs, text, finished, read_tokens, written_tokens, cost_usd, seconds, attempts, failure"
)
COLUMNS = NAMES.split(", ")
ROW = ("digest", "kind", "fingerprint", "call", *COLUMNS, "created")  # what is exported
TABLE = """
CREATE TABLE replies (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL,
    kind TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    call BLOB NOT NULL,
    logprobs TEXT NOT NULL,
    text TEXT NOT NULL,
    finished INTEGER NOT NULL,
    read_tokens INTEGER NOT NULL,
    written_tokens INTEGER NOT NULL,
    cost_usd REAL NOT NULL,
    seconds REAL NOT NULL,
    attempts INTEGER NOT NULL,
    failure TEXT,
    is_transient INTEGER NOT NULL,
    created REAL NOT NULL
)
"""
INDEX = "CREATE INDEX replies_by_digest ON replies (digest)"
LAYOUT = TableSchema("reply store", 1, (TABLE, INDEX), application=APPLICATION)
SELECT = f"SELECT digest, {NAMES} FROM replies WHERE digest IN ({{marks}}) ORDER BY id"
INSERT = (
    f"INSERT INTO replies (digest, kind, fingerprint, call, {NAMES}, is_transient, created) "
    f"VALUES ({', '.join('?' * (len(COLUMNS) + 6))})"
)
KEYS_PER_QUERY = 500  # below SQLite's smallest limit on parameters, 999


@dataclass(frozen=True, slots=True)
class Totals:
    """What all calls in a file took, failures and repetitions included."""

    calls: int  # rows
    answered: int  # different calls with an answer
    failures: dict[str, int]  # rows with a failure, by kind
    read: int  # tokens read
    written: int  # tokens written
    cost_usd: float  # money paid

    def to_metrics(self, prefix: str) -> dict[str, float]:
        """Return flat numbers of calls, tokens and money."""
        return {
            f"{prefix}/calls": float(self.calls),
            f"{prefix}/read_tokens": float(self.read),
            f"{prefix}/written_tokens": float(self.written),
            f"{prefix}/paid_usd": self.cost_usd,
        }


class ReplyStore(SqliteFile):
    """One SQLite file with a row per model call.

    A row is on disk when ``put`` returns and survives a kill or a power cut. Several processes of
    one machine may use the file at once. Rows are never changed: a call that failed and was asked
    again has two, and what was paid for both is counted. The file must not lie on a network file
    system, which SQLite's write-ahead log cannot use.

    Args:
        path: The file; made with its folder if it is not there. ``~`` is expanded.
        retry_failed: Ask again for calls whose failure would not pass by itself, too (those that
            may pass are always asked again), and for choices with options that were not reported.
        now: Tells the time in seconds since 1970, as written into rows.

    Raises:
        ValueError: The file is no reply store, is damaged, or is of another version.
        OSError: The file cannot be used: no room, no permission, held by another program.
    """

    def __init__(
        self, path: str | Path, *, retry_failed: bool = False, now: Callable[[], float] = time.time
    ) -> None:
        super().__init__(path, LAYOUT)
        self.retry_failed = retry_failed
        self._now = now

    def __len__(self) -> int:
        """Count rows: answers, failures and repetitions."""
        with self.explained():
            (count,) = self.connection.execute("SELECT COUNT(*) FROM replies").fetchone()
        return int(count)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Response]:
        """Return the replies that need not be asked for again, by key.

        The first answer counts where there are several, one that has every option's probability
        before others; without any, the last failure does, unless it may have passed by now (see
        ``is_asked_again``) or ``retry_failed`` is set.
        """
        found: dict[bytes, Response] = {}
        digests = list(dict.fromkeys(keys))
        with self.explained():
            for start in range(0, len(digests), KEYS_PER_QUERY):
                part = digests[start : start + KEYS_PER_QUERY]
                query = SELECT.format(marks=",".join("?" * len(part)))
                for digest, *columns in self.connection.execute(query, part):
                    reply = _reply(columns)
                    kept = _worth(found[digest]) if digest in found else 0
                    if kept and kept >= _worth(reply):
                        continue
                    # by today's rule, not by that of the version that wrote the row
                    asks_again = self.retry_failed or is_asked_again(reply.failure)
                    if reply.is_whole or not asks_again:
                        found[digest] = reply
        return found

    def put(self, key: bytes, call: Call, reply: Response, fingerprint: str) -> None:
        """Commit one reply; it is on disk when this returns."""
        row = (
            key,
            kind_of(call),
            fingerprint,
            zlib.compress(json.dumps(asdict(call), ensure_ascii=False).encode()),
            json.dumps([_plain(value) for value in reply.logprobs]),
            *astuple(reply)[1:],
            is_asked_again(reply.failure),
            self._now(),
        )
        with self.explained():
            self.connection.execute(INSERT, row)

    def totals(self) -> Totals:
        """Add up all rows."""
        with self.explained():
            calls, read, written, cost = self.connection.execute(
                "SELECT COUNT(*), TOTAL(read_tokens), TOTAL(written_tokens), TOTAL(cost_usd) "
                "FROM replies"
            ).fetchone()
            (answered,) = self.connection.execute(
                "SELECT COUNT(DISTINCT digest) FROM replies WHERE failure IS NULL"
            ).fetchone()
            failures = self.connection.execute(
                "SELECT failure, COUNT(*) FROM replies WHERE failure IS NOT NULL GROUP BY failure"
            ).fetchall()
        return Totals(calls, answered, dict(failures), int(read), int(written), cost)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield rows in the order committed, as records; infinite log-probabilities are None."""
        with self.explained():
            cursor = self.connection.execute(f"SELECT {', '.join(ROW)} FROM replies ORDER BY id")
            for values in cursor:
                row = dict(zip(ROW, values, strict=True))
                row["digest"] = row["digest"].hex()
                row["call"] = zlib.decompress(row["call"]).decode()
                row["logprobs"] = [
                    value if isinstance(value, int | float) else None
                    for value in json.loads(row["logprobs"])
                ]
                row["finished"] = bool(row["finished"])
                yield row


def _plain(value: float | None) -> float | str | None:
    """Write what JSON has no number for as text: ``"-inf"``, ``"nan"``."""
    if value is None or value - value == 0:
        return value
    return str(value)


def _worth(reply: Response) -> int:
    """Return 0 for a failure, 1 for an answer without some option's probability, 2 for a whole one."""
    return 0 if reply.failure is not None else 1 + reply.is_whole


def _reply(columns: Sequence[Any]) -> Response:
    logprobs, text, finished, *rest = columns
    values = json.loads(logprobs)
    return Response(
        tuple(None if value is None else float(value) for value in values),
        text,
        bool(finished),
        *rest,
    )
