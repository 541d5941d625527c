"""Every call to a model on disk, so that none is paid for twice and all can be looked at later."""

from __future__ import annotations

import itertools
import json
import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlaif_pl.data.disk import replaced
from rlaif_pl.data.failures import is_asked_again
from rlaif_pl.data.files import write_lines
from rlaif_pl.data.sqlite_file import SqliteFile, TableSchema
from rlaif_pl.labeling.calls import Call, Response, kind_of

APPLICATION = 0x524C4149  # "RLAI", tells these files from other SQLite files
# Columns with their types in SQLite: of the call, and of its ``Response`` in that one's order.
CALL = {"digest": "BLOB", "kind": "TEXT", "fingerprint": "TEXT", "call": "BLOB"}
REPLY = {"logprobs": "TEXT", "text": "TEXT", "finished": "INTEGER", "read_tokens": "INTEGER"}
REPLY |= {"written_tokens": "INTEGER", "cost_usd": "REAL", "seconds": "REAL", "attempts": "INTEGER"}
REPLY |= {"failure": "TEXT"}
COLUMNS = {**CALL, **REPLY, "is_transient": "INTEGER", "created": "REAL"}
ROW = [name for name in COLUMNS if name != "is_transient"]  # what is exported
BATCH = 1024  # rows of a Parquet row group
ARROW = {"INTEGER": pa.int64(), "REAL": pa.float64(), "TEXT": pa.string(), "BLOB": pa.string()}
OWN = {"logprobs": pa.list_(pa.float64()), "finished": pa.bool_()}
SCHEMA = pa.schema([(name, OWN.get(name, ARROW[COLUMNS[name]])) for name in ROW])

_TYPED = [f"{name} {kind}" + " NOT NULL" * (name != "failure") for name, kind in COLUMNS.items()]
TABLE = f"CREATE TABLE replies (id INTEGER PRIMARY KEY, {', '.join(_TYPED)})"
INDEX = "CREATE INDEX replies_by_digest ON replies (digest)"
LAYOUT = TableSchema("reply store", 1, (TABLE, INDEX), application=APPLICATION)
SELECT = f"SELECT {', '.join(REPLY)} FROM replies WHERE digest = ? ORDER BY id"
INSERT = f"INSERT INTO replies ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"


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
        numbers = {"calls": self.calls, "read_tokens": self.read, "written_tokens": self.written}
        named = {**numbers, "paid_usd": self.cost_usd}
        return {f"{prefix}/{name}": float(value) for name, value in named.items()}


class ReplyStore(SqliteFile):
    """One SQLite file with a row per model call.

    A row is on disk when ``put`` returns and survives a kill or a power cut. Rows are never changed: a
    call that failed and was asked again has two, and what was paid for both is counted. Several
    processes of one machine may use the file at once; a network file system cannot hold it.

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
        with self.explained():
            for key in dict.fromkeys(keys):
                for columns in self.connection.execute(SELECT, (key,)):
                    reply = _reply(*columns)
                    kept = _worth(found[key]) if key in found else 0
                    if kept and kept >= _worth(reply):
                        continue
                    # by today's rule, not by that of the version that wrote the row
                    asks_again = self.retry_failed or is_asked_again(reply.failure)
                    if reply.is_whole or not asks_again:
                        found[key] = reply
        return found

    def put(self, key: bytes, call: Call, reply: Response, fingerprint: str) -> None:
        """Commit one reply; it is on disk when this returns."""
        # what JSON has no number for, as text: "-inf", "nan"
        values = [v if v is None or math.isfinite(v) else str(v) for v in reply.logprobs]
        row = (
            key,
            kind_of(call),
            fingerprint,
            zlib.compress(json.dumps(asdict(call), ensure_ascii=False).encode()),
            json.dumps(values),
            *astuple(reply)[1:],
            is_asked_again(reply.failure),
            self._now(),
        )
        with self.explained():
            self.connection.execute(INSERT, row)

    def totals(self) -> Totals:
        """Add up all rows."""
        with self.explained():
            run = self.connection.execute
            calls, answered, read, written, cost = run(
                "SELECT COUNT(*), COUNT(DISTINCT CASE WHEN failure IS NULL THEN digest END), "
                "TOTAL(read_tokens), TOTAL(written_tokens), TOTAL(cost_usd) FROM replies"
            ).fetchone()
            failures = run(
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
                values = json.loads(row["logprobs"])
                row["logprobs"] = [v if isinstance(v, int | float) else None for v in values]
                row["finished"] = bool(row["finished"])
                yield row


def _worth(reply: Response) -> int:
    """Return 0 for a failure, 1 for an answer without some option's probability, 2 for a whole one."""
    return 0 if reply.failure is not None else 1 + reply.is_whole


def _reply(logprobs: str, text: str, finished: int, *rest: Any) -> Response:
    values = json.loads(logprobs)
    known = tuple(None if value is None else float(value) for value in values)
    return Response(known, text, bool(finished), *rest)


def export_replies(store: ReplyStore, path: str | Path) -> int:
    """Write a store to .jsonl or .parquet, at once; return its rows. ``ValueError``: another ending."""
    target = Path(path)
    if target.suffix == ".jsonl":
        write_lines(target, (json.dumps(row, ensure_ascii=False) for row in store.rows()))
    elif target.suffix == ".parquet":
        with replaced(target) as file, pq.ParquetWriter(file, SCHEMA) as writer:
            rows = store.rows()
            while part := list(itertools.islice(rows, BATCH)):
                writer.write_table(pa.Table.from_pylist(part, SCHEMA))
    else:
        raise ValueError(f"expected a file ending in .jsonl or .parquet, got {target}")
    return len(store)
