"""Tasks and ratings in one SQLite file: a rating is on disk when the page is told so."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rlaif_pl.data.sqlite_file import Layout, SqliteFile
from rlaif_pl.rating.tasks import Item, Task

FILE = "ratings.sqlite"
APPLICATION = 0x524C5254  # "RLRT", tells these files from other SQLite files
STATEMENTS = (
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE tasks (id TEXT PRIMARY KEY, place INTEGER NOT NULL, draw BLOB NOT NULL, "
    "prompt TEXT NOT NULL, prompt_group TEXT NOT NULL, items TEXT NOT NULL)",
    "CREATE TABLE ratings (id INTEGER PRIMARY KEY, submission TEXT NOT NULL UNIQUE, "
    "rater TEXT NOT NULL COLLATE NOCASE, task TEXT NOT NULL, shown TEXT NOT NULL, ranks TEXT, "
    "reason TEXT, seconds REAL NOT NULL, created REAL NOT NULL, undone REAL)",
    # one that was undone stays as a row, and makes room for another
    "CREATE UNIQUE INDEX once ON ratings (rater, task) WHERE undone IS NULL",
    "CREATE INDEX by_task ON ratings (task)",
    "CREATE TABLE leases (rater TEXT PRIMARY KEY COLLATE NOCASE, task TEXT NOT NULL, "
    "until REAL NOT NULL)",
)
LAYOUT = Layout("file of ratings", 1, STATEMENTS, "--out", APPLICATION)
LEASE_SECONDS = 900.0  # a task that someone looks at is kept from others so long
NEXT = """
SELECT id, done, held FROM (
    SELECT id, draw,
        (SELECT COUNT(*) FROM ratings WHERE task = tasks.id AND undone IS NULL
            AND ranks IS NOT NULL) AS done,
        (SELECT COUNT(*) FROM leases WHERE task = tasks.id AND rater <> :rater
            AND until > :now) AS held,
        (SELECT COUNT(*) FROM leases WHERE task = tasks.id AND rater = :rater) AS mine
    FROM tasks WHERE NOT EXISTS (SELECT 1 FROM ratings WHERE task = tasks.id
        AND rater = :rater AND undone IS NULL)
) WHERE done < :wanted ORDER BY done + held >= :wanted, mine DESC, done + held, draw LIMIT 1
"""
SELECT = "SELECT submission, rater, task, shown, ranks, reason, seconds, created FROM ratings"


@dataclass(frozen=True, slots=True)
class Rating:
    """What one person said of one task.

    Attributes:
        submission: Names the act of sending; sent twice, it counts once.
        rater: Name of the person.
        task: ``Task.id``.
        shown: Item at each place of the page, from the top.
        ranks: Rank of each item of the task, 1 for the best; None where the person could not judge.
        reason: Why not, where something was said.
        seconds: Time that the person looked at the task.
        created: When, in seconds since 1970.
    """

    submission: str
    rater: str
    task: str
    shown: tuple[int, ...]
    ranks: tuple[int, ...] | None
    reason: str | None = None
    seconds: float = 0.0
    created: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far people are.

    Attributes:
        mine: Ratings of the person asking, skipped ones included.
        done: Rankings that count toward what is wanted.
        wanted: Rankings wanted of all tasks.
        last: Submission that the person may undo; None where there is none.
    """

    mine: int
    done: int
    wanted: int
    last: str | None


class RatingStore(SqliteFile):
    """One SQLite file of tasks and ratings.

    Args:
        path: The file; made with its folder if it is not there.
        now: Tells the time in seconds since 1970.

    Raises:
        ValueError: The file is of another kind, is damaged, or is of another version.
        OSError: The file cannot be used: no room, no permission, held by another program.
    """

    def __init__(self, path: str | Path, now: Callable[[], float] = time.time) -> None:
        super().__init__(path, LAYOUT)
        self._now = now

    def begin(self, tasks: Sequence[Task], facts: dict[str, str]) -> None:
        """Put tasks and facts into an empty file, or see that they are those it was begun with.

        Args:
            tasks: What is ranked.
            facts: ``seed``, and whatever else must not change.

        Raises:
            ValueError: The file was begun with other tasks or facts.
        """
        with self.explained(), self.transaction():
            known = self._facts()
            if not known:
                self.connection.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
                rows = [_task_row(place, task, facts) for place, task in enumerate(tasks)]
                self.connection.executemany("INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?)", rows)
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
            return self._facts()[name]

    def facts(self) -> dict[str, str]:
        """Return what the file was begun with, and what was noted; empty for a new file."""
        with self.explained():
            return self._facts()

    def tasks(self) -> dict[str, Task]:
        """Return tasks by id, in the order of the samples."""
        query = "SELECT id, prompt, prompt_group, items FROM tasks ORDER BY place"
        with self.explained():
            rows = self.connection.execute(query).fetchall()
        return {key: Task(key, prompt, group, _items(items)) for key, prompt, group, items in rows}

    def next_task(self, rater: str, wanted: int) -> tuple[str | None, bool]:
        """Choose the task with the fewest rankings that this person has not rated, and lease it.

        Tasks that others look at count as ranked by them; the one this person looks at comes again.

        Args:
            rater: Who asks.
            wanted: Rankings wanted a task, at least 1.

        Returns:
            The task's id, or None, and then whether others still have some in hand.
        """
        now = self._now()
        values = {"rater": rater, "now": now, "wanted": wanted}
        with self.explained(), self.transaction():
            found = self.connection.execute(NEXT, values).fetchone()
            if found is None or found[1] + found[2] >= wanted:
                return None, found is not None
            self._lease(rater, found[0])
        return str(found[0]), False

    def put(self, rating: Rating) -> bool:
        """Commit a rating; it is on disk when this returns.

        Returns:
            False where it was there already: sent twice, or the person had rated the task.
        """
        values = (
            rating.submission,
            rating.rater,
            rating.task,
            json.dumps(rating.shown),
            None if rating.ranks is None else json.dumps(rating.ranks),
            rating.reason,
            rating.seconds,
            self._now(),
        )
        with self.explained(), self.transaction():
            cursor = self.connection.execute(
                "INSERT INTO ratings (submission, rater, task, shown, ranks, reason, seconds, "
                "created) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                values,
            )
            self.connection.execute(
                "DELETE FROM leases WHERE rater = ? AND task = ?", (rating.rater, rating.task)
            )
        return cursor.rowcount == 1

    def undo(self, rater: str, submission: str) -> Rating | None:
        """Take a person's rating back and lease its task to them; asked twice, once is done.

        Returns:
            The rating as it was; None where this person never sent it.
        """
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
        return _rating(row)

    def progress(self, rater: str, wanted: int) -> Progress:
        """Say how far people are."""
        with self.explained():
            (mine,) = self.connection.execute(
                "SELECT COUNT(*) FROM ratings WHERE rater = ? AND undone IS NULL", (rater,)
            ).fetchone()
            (tasks,) = self.connection.execute("SELECT COUNT(*) FROM tasks").fetchone()
            (done,) = self.connection.execute(
                "SELECT TOTAL(MIN(n, ?)) FROM (SELECT COUNT(*) AS n FROM ratings "
                "WHERE undone IS NULL AND ranks IS NOT NULL GROUP BY task)",
                (wanted,),
            ).fetchone()
            last = self.connection.execute(
                "SELECT submission FROM ratings WHERE rater = ? AND undone IS NULL "
                "ORDER BY id DESC LIMIT 1",
                (rater,),
            ).fetchone()
        return Progress(mine, int(done), tasks * wanted, last[0] if last else None)

    def ratings(self) -> list[Rating]:
        """Return the ratings that count, in the order in which they came."""
        with self.explained():
            rows = self.connection.execute(f"{SELECT} WHERE undone IS NULL ORDER BY id")
            return [_rating(row) for row in rows]

    def count_undone(self) -> int:
        """Count ratings that were taken back."""
        with self.explained():
            query = "SELECT COUNT(*) FROM ratings WHERE undone IS NOT NULL"
            return int(self.connection.execute(query).fetchone()[0])

    def _facts(self) -> dict[str, str]:
        return dict(self.connection.execute("SELECT name, value FROM facts").fetchall())

    def _lease(self, rater: str, task: str) -> None:
        """Keep a task for a person, who holds one at a time."""
        self.connection.execute(
            "INSERT INTO leases VALUES (?, ?, ?) ON CONFLICT (rater) DO UPDATE SET "
            "task = excluded.task, until = excluded.until",
            (rater, task, self._now() + LEASE_SECONDS),
        )


def _task_row(place: int, task: Task, facts: dict[str, str]) -> tuple[object, ...]:
    """Return a row; ``draw`` orders tasks with as many rankings, at random by the seed."""
    draw = hashlib.blake2b(f"{facts.get('seed')}/{task.id}".encode(), digest_size=8).digest()
    items = json.dumps([asdict(item) for item in task.items], ensure_ascii=False)
    return task.id, place, draw, task.prompt, task.group, items


def _items(text: str) -> tuple[Item, ...]:
    return tuple(Item(item["text"], tuple(item["policies"])) for item in json.loads(text))


def _rating(row: tuple[str, ...]) -> Rating:
    submission, rater, task, shown, ranks, reason, seconds, created = row
    order = None if ranks is None else tuple(json.loads(ranks))
    return Rating(
        submission,
        rater,
        task,
        tuple(json.loads(shown)),
        order,
        reason,
        float(seconds),
        float(created),
    )
