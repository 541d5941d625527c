"""Who gets which prompt, and what counts."""

import sqlite3

import pytest

from rlaif_pl.evaluation.human.records import Rating
from rlaif_pl.evaluation.human.store import LEASE_SECONDS, RatingStore
from rlaif_pl.evaluation.human.tasks import Item, RatingTask

FACTS = {"seed": "0", "policies": "[]"}
TASKS = [
    RatingTask(f"t{n}", "prompt", f"g{n}", (Item("x", ("a",)), Item("y", ("b",)))) for n in range(3)
]


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    with RatingStore(tmp_path / "r.sqlite", clock) as opened:
        opened.begin(TASKS, FACTS)
        yield opened


def rate(store, rater, task, ranks=(1, 2), name=None):
    return store.put(Rating(name or f"{rater}/{task}", rater, task, (0, 1), ranks))


def test_prompts_with_the_fewest_rankings_come_first(store):
    for task in ("t0", "t2"):
        rate(store, "ann", task)
    assert store.next_task("bo", 3) == ("t1", False)
    rate(store, "bo", "t1")
    rate(store, "cy", "t0")
    assert store.next_task("dee", 3)[0] in ("t1", "t2")


def test_what_one_looks_at_is_kept_from_others_for_a_while(store, clock):
    mine, _ = store.next_task("ann", 1)
    assert store.next_task("ANN", 1) == (mine, False)  # the page was opened again
    others = {store.next_task(name, 1)[0] for name in ("bo", "cy")}
    assert others == {"t0", "t1", "t2"} - {mine}
    assert store.next_task("dee", 1) == (None, True)
    clock.time += LEASE_SECONDS + 1
    assert store.next_task("dee", 1)[0] is not None
    # two others rank it while ann is away: it is no longer offered to her
    rate(store, "bo", mine)
    assert store.next_task("ann", 1)[0] != mine


def test_nothing_is_left_after_as_many_rankings_as_are_wanted(store):
    for rater in ("ann", "bo"):
        for task in ("t0", "t1", "t2"):
            rate(store, rater, task)
    assert store.next_task("cy", 2) == (None, False)
    assert store.next_task("cy", 3)[0] is not None
    progress = store.progress("ann", 1)
    assert (progress.mine, progress.done, progress.wanted) == (3, 3, 3)


def test_a_rating_counts_once_however_often_it_is_sent(store):
    assert rate(store, "ann", "t0")
    assert not rate(store, "ann", "t0")
    assert not rate(store, "Ann", "t0", (2, 1), "from another window")
    assert not rate(store, "bo", "t1", name="ann/t0")
    assert [(r.rater, r.task, r.ranks) for r in store.ratings()] == [("ann", "t0", (1, 2))]


def test_who_cannot_judge_is_not_asked_again_and_does_not_count(store):
    rate(store, "ann", "t0", None)
    rate(store, "ann", "t1", None)
    assert store.next_task("ann", 1) == ("t2", False)
    assert store.progress("ann", 1).done == 0
    assert store.next_task("bo", 1)[0] in ("t0", "t1")


def test_undo_takes_back_once_and_brings_the_prompt_again(store):
    rate(store, "ann", "t0")
    rate(store, "ann", "t1")
    for _ in range(2):
        assert store.undo("ann", "ann/t1").task == "t1"
    assert store.count_undone() == 1
    assert store.progress("ann", 1).last == "ann/t0"
    assert store.next_task("ann", 3) == ("t1", False)
    assert rate(store, "ann", "t1", (2, 1), "anew")
    assert [r.ranks for r in store.ratings()] == [(1, 2), (2, 1)]
    assert store.undo("bo", "ann/t0") is None


def test_a_file_goes_on_with_what_it_was_begun_with_only(store, tmp_path):
    store.begin(TASKS, FACTS)
    assert list(store.tasks().values()) == TASKS
    with pytest.raises(ValueError, match=r"begun with, got other seed; .*name another --out"):
        store.begin(TASKS, FACTS | {"seed": "1"})
    with pytest.raises(ValueError, match="got other samples"):
        store.begin(TASKS[:2], FACTS)
    assert store.note("token", "first") == store.note("token", "second") == "first"


# What made a file before anybody was asked what is acceptable, as it stood then.
BEFORE = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE tasks (id TEXT PRIMARY KEY, place INTEGER NOT NULL, draw BLOB NOT NULL,
    prompt TEXT NOT NULL, prompt_group TEXT NOT NULL, items TEXT NOT NULL);
CREATE TABLE ratings (id INTEGER PRIMARY KEY, submission TEXT NOT NULL UNIQUE,
    rater TEXT NOT NULL COLLATE NOCASE, task TEXT NOT NULL, shown TEXT NOT NULL, ranks TEXT,
    reason TEXT, seconds REAL NOT NULL, created REAL NOT NULL, undone REAL);
CREATE UNIQUE INDEX once ON ratings (rater, task) WHERE undone IS NULL;
CREATE INDEX by_task ON ratings (task);
CREATE TABLE leases (rater TEXT PRIMARY KEY COLLATE NOCASE, task TEXT NOT NULL,
    until REAL NOT NULL);
INSERT INTO facts VALUES ('seed', '0'), ('policies', '["a", "b"]');
INSERT INTO tasks VALUES ('t0', 0, x'00', 'prompt', 'g0',
    '[{"text": "x", "policies": ["a"]}, {"text": "y", "policies": ["b"]}]');
INSERT INTO ratings VALUES (1, 's1', 'Ann', 't0', '[1, 0]', '[2, 1]', NULL, 4.0, 5.0, NULL),
    (2, 's2', 'ann', 't0', '[1, 0]', '[1, 2]', NULL, 4.0, 5.0, 6.0),
    (3, 's3', 'Bo', 't0', '[0, 1]', NULL, 'gibberish', 1.0, 7.0, NULL);
PRAGMA application_id = 0x524C5254;
PRAGMA user_version = 1;
"""


def test_a_file_of_before_opens_with_all_that_was_in_it(tmp_path):
    connection = sqlite3.connect(tmp_path / "old.sqlite")
    connection.executescript(BEFORE)
    connection.close()
    for _ in range(2):  # upgraded, then as it is now
        with RatingStore(tmp_path / "old.sqlite") as store:
            ann, bo = store.ratings()
            assert (ann.rater, ann.ranks, ann.shown, ann.seconds) == ("Ann", (2, 1), (1, 0), 4)
            assert (bo.ranks, bo.reason) == (None, "gibberish")
            assert {(r.acceptable, r.kind) for r in (ann, bo)} == {(None, "person")}
            assert store.count_undone() == 1
            assert store.tasks()["t0"].items[1].text == "y"
    with RatingStore(tmp_path / "old.sqlite") as store:
        with pytest.raises(ValueError, match="expected kind 'person'"):
            store.declare("ANN", "model")
        rating = Rating("s4", "Cy", "t0", (0, 1), (1, 2), acceptable=(True, False), kind="model")
        assert store.put(rating)
        assert store.ratings()[-1].acceptable == (True, False)
        assert store.progress("cy", 3).done == store.progress("ann", 3).done == 1


@pytest.mark.parametrize("version", [0, 3])
def test_a_file_of_another_version_is_refused(tmp_path, version):
    connection = sqlite3.connect(tmp_path / "other.sqlite")
    connection.executescript(BEFORE + f"PRAGMA user_version = {version};")
    connection.close()
    with pytest.raises(ValueError, match=f"of version 2, got version {version}"):
        RatingStore(tmp_path / "other.sqlite")
    connection = sqlite3.connect(tmp_path / "other.sqlite")
    columns = [row[1] for row in connection.execute("PRAGMA table_info(ratings)")]
    connection.close()
    assert "acceptable" not in columns


def test_what_people_look_at_is_free_for_models(store):
    store.declare("reader", "model")
    mine = {store.next_task(name, 1)[0] for name in ("ann", "bo", "cy")}
    assert mine == {"t0", "t1", "t2"}
    assert store.next_task("dee", 1) == (None, True)
    assert store.next_task("reader", 1)[0] in mine


def test_many_ratings_are_put_all_or_none(store):
    rate(store, "ann", "t0")
    good = ("row 1", Rating("x", "cy", "t0", (0, 1), (1, 2)))
    for bad in (
        Rating("y", "ann", "t0", (0, 1), (2, 1)),
        Rating("y", "ann", "t1", (0, 1), (2, 1), kind="model"),
    ):
        with pytest.raises(ValueError, match="row 2: expected"):
            store.put_all([good, ("row 2", bad)])
        assert [r.rater for r in store.ratings()] == ["ann"]
    again = ("row 2", Rating("z", "Ann", "t0", (1, 0), (1, 2)))
    assert store.put_all([good, again]) == 1
    assert store.put_all([good, again]) == 0
