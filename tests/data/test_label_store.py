"""The label store: found again, safe against kills, other processes and broken files."""

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from rlaif_pl.data.label_store import LabelStore
from rlaif_pl.types import Preference, Provenance


def pair(n, **changes):
    return Preference(f"post {n}", f"first {n}", f"second {n}", f"g{n}", **changes)


def answers(store, fingerprint, pairs):
    return [answer for _, answer in store.look_up(fingerprint, pairs)]


def labeled(n, p=0.7, **provenance):
    return pair(n, p_first=p, source="ai", provenance=Provenance(**provenance))


def test_a_label_is_found_by_labeler_and_texts_only(tmp_path):
    with LabelStore(tmp_path / "s.sqlite") as store:
        store.put("one", [labeled(1, labeler="x", margin=0.3, same_slot=False, tokens=9)])
        asked = pair(1, weight=5.0, provenance=Provenance(first_policy="sft"))
        asked = dataclasses.replace(asked, group="other")
        swapped = dataclasses.replace(asked, first=asked.second, second=asked.first)
        found, other, absent = answers(store, "one", [asked, swapped, pair(2)])
        assert answers(store, "two", [asked]) == [None]
    assert (other, absent) == (None, None)
    assert (found.p_first, found.source, found.group, found.weight) == (0.7, "ai", "other", 5.0)
    assert found.provenance == Provenance("sft", labeler="x", margin=0.3, same_slot=False, tokens=9)


def test_moving_text_between_parts_is_another_pair(tmp_path):
    with LabelStore(tmp_path / "s.sqlite") as store:
        store.put("f", [Preference("ab", "c", "d", "g", 0.5)])
        assert answers(store, "f", [Preference("a", "bc", "d", "g")]) == [None]
        assert answers(store, "fa", [Preference("b", "c", "d", "g")]) == [None]


def test_more_pairs_than_sqlite_takes_parameters(tmp_path):
    with LabelStore(tmp_path / "s.sqlite") as store:
        store.put("f", [labeled(n, p=n / 1200) for n in range(1200)])
        found = answers(store, "f", [pair(n) for n in range(1200)])
        assert len(store) == 1200
    assert [answer.p_first for answer in found] == [n / 1200 for n in range(1200)]


def test_a_failure_can_be_replaced_but_a_label_cannot(tmp_path):
    with LabelStore(tmp_path / "s.sqlite") as store:
        store.put("f", [pair(1, provenance=Provenance(failure="malformed", margin=float("nan")))])
        (failed,) = answers(store, "f", [pair(1)])
        store.put("f", [labeled(1, p=0.2)])
        store.put("f", [labeled(1, p=0.9)])
        (kept,) = answers(store, "f", [pair(1)])
    assert failed.p_first is None
    assert failed.provenance == Provenance(failure="malformed")
    assert kept.p_first == 0.2
    assert kept.provenance.failure is None


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_a_batch_with_a_wrong_label_is_not_kept_at_all(tmp_path, p):
    with LabelStore(tmp_path / "s.sqlite") as store:
        with pytest.raises(ValueError, match=r"expected p_first in \[0, 1\]"):
            store.put("f", [labeled(1), labeled(2, p=p)])
        assert len(store) == 0


CHILD = """
import sys
from rlaif_pl.data.label_store import LabelStore
from rlaif_pl.types import Preference
start, path = int(sys.argv[1]), sys.argv[2]
store = LabelStore(path)
for n in range(start, start + 200):
    store.put("f", [Preference(f"post {n}", f"first {n}", f"second {n}", "g", 0.5)])
    print(n, flush=True)
sys.stdin.read()
"""


def start_child(first, path):
    command = [sys.executable, "-c", CHILD, str(first), str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_and_a_kill_lose_nothing_committed(tmp_path):
    path = tmp_path / "s.sqlite"
    children = [start_child(first, path) for first in (0, 100)]  # the second half overlaps
    for line in children[0].stdout:
        if line.strip() == "150":
            os.kill(children[0].pid, signal.SIGKILL)
            break
    children[0].wait()
    done = [int(line) for line in children[0].stdout] or [150]
    rest, _ = children[1].communicate("")
    assert rest.split() == [str(n) for n in range(100, 300)]
    with LabelStore(path) as store:
        expected = [pair(n) for n in range(max(*done, 150) + 1)]
        assert None not in answers(store, "f", expected)
        assert answers(store, "f", [pair(299)])[0].p_first == 0.5


def test_a_new_file_can_be_opened_by_many_at_once(tmp_path):
    def use(n, path):
        with LabelStore(path) as store:
            store.put("f", [labeled(n)])

    for attempt in range(20):
        path = tmp_path / f"{attempt}.sqlite"
        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(use, range(16), [path] * 16)) == [None] * 16
        with LabelStore(path) as store:
            assert len(store) == 16


def test_a_file_that_is_no_store_says_what_to_do(tmp_path):
    (tmp_path / "text.sqlite").write_text("this is not a data base, just text" * 100)
    with pytest.raises(ValueError, match=r"text.sqlite to be a label store.*move it away"):
        LabelStore(tmp_path / "text.sqlite")
    with sqlite3.connect(tmp_path / "other.sqlite") as other:
        other.execute("CREATE TABLE recipes (x)")
    with pytest.raises(ValueError, match="version 1, got version 0 with 1 tables"):
        LabelStore(tmp_path / "other.sqlite")


def test_a_damaged_store_says_what_to_do(tmp_path):
    path = tmp_path / "s.sqlite"
    with LabelStore(path) as store:
        store.put("f", [labeled(n) for n in range(300)])
    data = bytearray(path.read_bytes())
    data[4096:] = b"\x5a" * (len(data) - 4096)
    path.write_bytes(data)
    with LabelStore(path) as store, pytest.raises(ValueError, match="move it away"):
        answers(store, "f", [pair(n) for n in range(300)])


def test_a_folder_in_the_way_says_what_to_do(tmp_path):
    with pytest.raises(OSError, match="name another store"):
        LabelStore(tmp_path)
