"""The tables of a file of ratings, and the queries over them."""

from __future__ import annotations

from rlaif_pl.data.sqlite_file import TableSchema

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
SELECT = (
    "SELECT submission, rater, task, shown, ranks, reason, seconds, created, acceptable, "
    f"{KIND.format(table='ratings')} FROM ratings"
)
