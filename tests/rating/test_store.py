"""Who gets which prompt, and what counts."""

import pytest

from rlaif_pl.rating.store import LEASE_SECONDS, Rating, RatingStore
from rlaif_pl.rating.tasks import Item, Task

FACTS = {"seed": "0", "policies": "[]"}
TASKS = [Task(f"t{n}", "prompt", f"g{n}", (Item("x", ("a",)), Item("y", ("b",)))) for n in range(3)]


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
