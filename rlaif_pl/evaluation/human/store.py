"""Tasks and ratings in one SQLite file: a rating is on disk when the page is told so."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rlaif_pl.data.sqlite_file import SqliteFile, TableSchema
from rlaif_pl.evaluation.human.records import Kind, Progress, Rating, rating_of
from rlaif_pl.evaluation.human.tasks import Item, RatingTask

FILE = "ratings.sqlite"
APPLICATION = 0x524C5254  # "RLRT", tells these files from other SQLite files
RATERS = "CREATE TABLE raters (rater TEXT PRIMARY KEY COLLATE NOCASE, kind TEXT NOT NULL)"
STATEMENTS = (
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE tasks (id TEXT PRIMARY KEY, place INTEGER NOT NULL, draw BLOB NOT NULL, "
    "prompt TEXT NOT NULL, prompt_group TEXT NOT NULL, items TEXT NOT NULL)",
    "CREATE TABLE ratings (id INTEGER PRIMARY KEY, submission TEXT NOT NULL UNIQUE, "
    "rater TEXT NOT NULL COLLATE NOCASE, task TEXT NOT NULL, shown TEXT NOT NULL, ranks TEXT, "
    "acceptable TEXT, reason TEXT, seconds REAL NOT NULL, created REAL NOT NULL, undone REAL)",
    # one that was undone stays as a row, and makes room for another
    "CREATE UNIQUE INDEX once ON ratings (rater, task) WHERE undone IS NULL",
    "CREATE INDEX by_task ON ratings (task)",
    "CREATE TABLE leases (rater TEXT PRIMARY KEY COLLATE NOCASE, task TEXT NOT NULL, "
    "until REAL NOT NULL)",
    RATERS,
)
UPGRADES = {
    # of 1: nobody was asked what is acceptable, and all raters were people
    1: (
        "ALTER TABLE ratings ADD COLUMN acceptable TEXT",
        RATERS,
        "INSERT OR IGNORE INTO raters SELECT rater, 'person' FROM ratings",
    )
}
LAYOUT = TableSchema("file of ratings", 2, STATEMENTS, "--out", APPLICATION, UPGRADES)
LEASE_SECONDS = 900.0  # a task that someone looks at is kept from others so long
# Kind of the rater of a row of ratings or leases; a program of before may have added one.
KIND = "COALESCE((SELECT kind FROM raters WHERE rater = {table}.rater), 'person')"
OF_KIND = KIND.format(table="ratings") + " = :kind"
NEXT = f"""
SELECT id, done, held FROM (
    SELECT id, draw,
        (SELECT COUNT(*) FROM ratings WHERE task = tasks.id AND undone IS NULL
            AND ranks IS NOT NULL AND {OF_KIND}) AS done,
        (SELECT COUNT(*) FROM leases WHERE task = tasks.id AND rater <> :rater
            AND until > :now AND {KIND.format(table="leases")} = :kind) AS held,
        (SELECT COUNT(*) FROM leases WHERE task = tasks.id AND rater = :rater) AS mine
    FROM tasks WHERE NOT EXISTS (SELECT 1 FROM ratings WHERE task = tasks.id
        AND rater = :rater AND undone IS NULL)
) WHERE done < :wanted ORDER BY done + held >= :wanted, mine DESC, done + held, draw LIMIT 1
"""
PROGRESS = f"""
SELECT (SELECT COUNT(*) FROM ratings WHERE rater = :rater AND undone IS NULL),
    (SELECT CAST(TOTAL(MIN(n, :wanted)) AS INTEGER) FROM (SELECT COUNT(*) AS n FROM ratings
        WHERE undone IS NULL AND ranks IS NOT NULL AND {OF_KIND} GROUP BY task)),
    (SELECT COUNT(*) FROM tasks) * :wanted,
    (SELECT submission FROM ratings WHERE rater = :rater AND undone IS NULL ORDER BY id DESC LIMIT 1)
"""
SELECT = (
    "SELECT submission, rater, task, shown, ranks, reason, seconds, created, acceptable, "
    f"{KIND.format(table='ratings')} FROM ratings"
)


class RatingStore(SqliteFile):
    """One SQLite file of tasks and ratings; errors as of ``SqliteFile``."""

    def __init__(self, path: str | Path, now: Callable[[], float] = time.time) -> None:
        super().__init__(path, LAYOUT)
        self._now = now

    def begin(self, tasks: Sequence[RatingTask], facts: dict[str, str]) -> None:
        """Put tasks and facts into an empty file. ``ValueError``: it was begun with others."""
        with self.explained(), self.transaction():
            known = self.facts()
            if not known:
                self.connection.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
                for place, task in enumerate(tasks):
                    # orders tasks with as many rankings, at random by the seed
                    drawn = f"{facts.get('seed')}/{task.id}".encode()
                    draw = hashlib.blake2b(drawn, digest_size=8).digest()
                    items = json.dumps([asdict(item) for item in task.items], ensure_ascii=False)
                    row = task.id, place, draw, task.prompt, task.group, items
                    self.connection.execute("INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?)", row)
                return
        changed = [name for name, value in facts.items() if known.get(name) != value]
        if changed or list(self.tasks().values()) != list(tasks):
            raise ValueError(
                f"expected the samples and settings that {self.path} was begun with, got other "
                f"{', '.join(changed) or 'samples'}; give the same, leave --samples out to go on, or "
                "name another --out"
            )

    def note(self, name: str, value: str) -> str:
        """Keep a further fact, unless it is there already; return the one that is kept."""
        with self.explained():
            self.connection.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, value))
            return self.facts()[name]

    def facts(self) -> dict[str, str]:
        """Return what the file was begun with, and what was noted; empty for a new file."""
        with self.explained():
            return dict(self.connection.execute("SELECT name, value FROM facts").fetchall())

    def tasks(self) -> dict[str, RatingTask]:
        """Return tasks by id, in the order of the samples."""
        query = "SELECT id, prompt, prompt_group, items FROM tasks ORDER BY place"
        with self.explained():
            rows = self.connection.execute(query).fetchall()
        found = {}
        for key, prompt, group, items in rows:
            texts = tuple(Item(x["text"], tuple(x["policies"])) for x in json.loads(items))
            found[key] = RatingTask(key, prompt, group, texts)
        return found

    def next_task(self, rater: str, wanted: int) -> tuple[str | None, bool]:
        """Choose the task with the fewest rankings that this rater has not rated, and lease it.

        Tasks that others of the same kind look at count as ranked by them; the one this rater looks at
        comes again. Returns its id, or None, and then whether others still have some in hand.
        """
        now = self._now()
        with self.explained(), self.transaction():
            values = {"rater": rater, "now": now, "wanted": wanted, "kind": self._kind(rater)}
            found = self.connection.execute(NEXT, values).fetchone()
            if found is None or found[1] + found[2] >= wanted:
                return None, found is not None
            self._lease(rater, found[0])
        return str(found[0]), False

    def declare(self, rater: str, kind: Kind | None) -> None:
        """Keep of which kind a rater is, from the first time that it is said.

        None says nothing, which is a person where nothing is known. ``ValueError``: the rater is known
        as one of the other kind.
        """
        with self.explained():
            self._enter(rater, kind or "person")
            known = self._kind(rater)
        if kind not in (None, known):
            raise ValueError(
                f"expected kind {known!r} of the rater {rater!r}, as the first time, got {kind!r}; "
                "take another name"
            )

    def put(self, rating: Rating) -> bool:
        """Commit a rating; it is on disk when this returns. False where it, or another, was there."""
        with self.explained(), self.transaction():
            return self._insert(rating)

    def put_all(self, ratings: Sequence[tuple[str, Rating]]) -> int:
        """Commit others' ratings, all or none; return how many are new. ``ValueError``: one differs."""
        new = 0
        with self.explained(), self.transaction():
            for where, rating in ratings:
                try:
                    self.declare(rating.rater, rating.kind)
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from error
                query = f"{SELECT} WHERE rater = ? AND task = ? AND undone IS NULL"
                row = self.connection.execute(query, (rating.rater, rating.task)).fetchone()
                if row is None:
                    new += self._insert(rating)
                elif rating_of(row).said() != rating.said():
                    raise ValueError(
                        f"{where}: expected no other rating of task {rating.task} by "
                        f"{rating.rater!r}, there is one; leave the row out or take another name"
                    )
        return new

    def undo(self, rater: str, submission: str) -> Rating | None:
        """Take a rating back, once, and lease its task; return it, or None where there was none."""
        with self.explained(), self.transaction():
            where = "WHERE rater = ? AND submission = ?"
            row = self.connection.execute(f"{SELECT} {where}", (rater, submission)).fetchone()
            if row is None:
                return None
            self.connection.execute(
                f"UPDATE ratings SET undone = ? {where} AND undone IS NULL",
                (self._now(), rater, submission),
            )
            self._lease(rater, row[2])
        return rating_of(row)

    def progress(self, rater: str, wanted: int, kind: Kind | None = None) -> Progress:
        """Say how far raters of a kind are; None takes the kind of the rater."""
        with self.explained():
            values = {"rater": rater, "wanted": wanted, "kind": kind or self._kind(rater)}
            return Progress(*self.connection.execute(PROGRESS, values).fetchone())

    def ratings(self) -> list[Rating]:
        """Return the ratings that count, in the order in which they came."""
        with self.explained():
            rows = self.connection.execute(f"{SELECT} WHERE undone IS NULL ORDER BY id")
            return [rating_of(row) for row in rows]

    def count_undone(self, kind: Kind = "person") -> int:
        """Count ratings by raters of a kind that were taken back."""
        with self.explained():
            query = f"SELECT COUNT(*) FROM ratings WHERE undone IS NOT NULL AND {OF_KIND}"
            return int(self.connection.execute(query, {"kind": kind}).fetchone()[0])

    def _insert(self, rating: Rating) -> bool:
        """Add a row and end the lease; False where there was one."""
        lists = (None if x is None else json.dumps(x) for x in (rating.ranks, rating.acceptable))
        given = rating.submission, rating.rater, rating.task, json.dumps(rating.shown), *lists
        self._enter(rating.rater, rating.kind)
        cursor = self.connection.execute(
            "INSERT INTO ratings (submission, rater, task, shown, ranks, acceptable, reason, seconds, "
            "created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (*given, rating.reason, rating.seconds, self._now()),
        )
        self.connection.execute("DELETE FROM leases WHERE rater = ? AND task = ?", given[1:3])
        return cursor.rowcount == 1

    def _enter(self, rater: str, kind: Kind) -> None:
        self.connection.execute("INSERT OR IGNORE INTO raters VALUES (?, ?)", (rater, kind))

    def _kind(self, rater: str) -> Kind:
        query = "SELECT kind FROM raters WHERE rater = ?"
        row = self.connection.execute(query, (rater,)).fetchone()
        return row[0] if row else "person"

    def _lease(self, rater: str, task: str) -> None:
        """Keep a task for a person, who holds one at a time."""
        self.connection.execute(
            "INSERT INTO leases VALUES (?, ?, ?) ON CONFLICT (rater) DO UPDATE SET "
            "task = excluded.task, until = excluded.until",
            (rater, task, self._now() + LEASE_SECONDS),
        )
