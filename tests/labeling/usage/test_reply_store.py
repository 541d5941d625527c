"""Replies on disk: every call once, failures by kind, files of others refused."""

import gc
import json
import math
import sqlite3
import weakref

import pyarrow.parquet as pq
import pytest

from rlaif_pl.labeling.calls import (
    ChoiceRequest,
    Decoding,
    GenerateRequest,
    LoglikelihoodRequest,
    Question,
    Response,
    key_of,
)
from rlaif_pl.labeling.strategy import CachedClient
from rlaif_pl.labeling.usage.reply_store import ReplyStore, export_replies

CALLS = (
    ChoiceRequest(Question("which? "), ("1", "2")),
    GenerateRequest(
        Question("why? \u2603", chat=True), Decoding(max_tokens=9, stop=("\n",)), sample=2
    ),
    LoglikelihoodRequest("a", " b c"),
)
REPLIES = (
    Response(logprobs=(-0.25, None), read=7, written=1, cost_usd=0.5, seconds=2.0, attempts=3),
    Response(
        text="because \u2603\n", finished=False, read=5, written=9, cost_usd=0.25, seconds=1.0
    ),
    Response(logprobs=(-1.5, -math.inf), read=3),
)


@pytest.fixture
def store(tmp_path):
    with ReplyStore(tmp_path / "folder" / "r.sqlite", now=lambda: 1000.0) as store:
        yield store


def put(store, call, reply, model="m"):
    key = key_of(model, call)
    store.put(key, call, reply, model)
    return key


def test_replies_come_back_as_they_were(store):
    keys = [put(store, *row) for row in zip(CALLS, REPLIES, strict=True)]
    with ReplyStore(store.path) as again:
        found = again.get_many([*keys, key_of("m", LoglikelihoodRequest("a", " c"))])
    assert [found[key] for key in keys] == list(REPLIES)
    assert len(found) == 3


def test_another_model_has_other_replies(store):
    put(store, CALLS[0], REPLIES[0])
    assert store.get_many([key_of("other", CALLS[0])]) == {}


def test_more_keys_than_a_query_takes_are_found(store):
    calls = [LoglikelihoodRequest("x", f" {n}") for n in range(1203)]
    store.connection.execute("BEGIN")  # one commit for all, this once
    keys = [put(store, call, Response(logprobs=(-float(n),))) for n, call in enumerate(calls)]
    store.connection.execute("COMMIT")
    found = store.get_many(keys)
    assert [found[key].logprobs[0] for key in keys] == [-float(n) for n in range(1203)]


@pytest.mark.parametrize(
    "kind",
    ["timeout", "connection", "http_429", "http_503", "malformed_reply", "http_400", "http_422"],
)
def test_failures_that_may_pass_are_asked_for_again(store, kind):
    key = put(store, CALLS[0], Response(failure=kind))
    assert store.get_many([key]) == {}
    assert len(store) == 1


@pytest.mark.parametrize("kind", ["refused", "too_long", "empty", "nonfinite"])
def test_failures_that_stay_are_asked_for_again_only_on_request(store, kind):
    key = put(store, CALLS[0], Response(failure=kind))
    assert store.get_many([key])[key].failure == kind
    with ReplyStore(store.path, retry_failed=True) as eager:
        assert eager.get_many([key]) == {}


def test_an_answer_is_never_given_up_for_a_later_row(store):
    first = Response(logprobs=(-0.25, -2.0), read=7)
    key = put(store, CALLS[0], Response(failure="refused"))
    put(store, CALLS[0], first)
    put(store, CALLS[0], Response(logprobs=(-9.0, -9.0)))
    put(store, CALLS[0], REPLIES[0])
    put(store, CALLS[0], Response(failure="refused"))
    assert store.get_many([key]) == {key: first}


def test_a_choice_with_an_option_that_was_not_reported_is_asked_for_again_on_request(store):
    key = put(store, CALLS[0], REPLIES[0])
    put(store, CALLS[0], Response(failure="split_option"))
    assert store.get_many([key]) == {key: REPLIES[0]}
    whole = Response(logprobs=(-0.25, -2.0), read=7)
    with ReplyStore(store.path, retry_failed=True) as eager:
        assert eager.get_many([key]) == {}
        put(eager, CALLS[0], whole)
        assert eager.get_many([key]) == {key: whole}
    assert store.get_many([key]) == {key: whole}  # the better answer stays found


def test_what_is_not_reported_is_asked_once_a_run(store):
    asked = []

    class Backend:
        fingerprint = "m"

        def answer(self, calls, done):
            asked.extend(calls)
            for place in range(len(calls)):
                done(place, Response(logprobs=(None, None)))

    store.retry_failed = True
    client = CachedClient(Backend(), store)
    first, again = client.ask(CALLS[:1]), client.ask(CALLS[:1])
    assert first == again
    assert len(asked) == 1


def test_totals_count_what_was_paid_for_failures_and_repetitions(store):
    for row in zip(CALLS, REPLIES, strict=True):
        put(store, *row)
    put(store, CALLS[0], REPLIES[0])
    put(store, LoglikelihoodRequest("a", " d"), Response(failure="timeout", cost_usd=0.125))
    totals = store.totals()
    assert (totals.calls, totals.answered, totals.failures) == (5, 3, {"timeout": 1})
    assert (totals.read, totals.written, totals.cost_usd) == (22, 11, 1.375)


class Canned:
    """Answers every call alike and counts them."""

    fingerprint = "m"

    def __init__(self, failure=None):
        self.asked = 0
        self.failure = failure

    def answer(self, calls, done):
        for place, _ in enumerate(calls):
            self.asked += 1
            done(place, Response(logprobs=(-1.0, -2.0), failure=self.failure))


def test_no_call_is_made_twice_in_two_runs(store):
    first, second = Canned(), Canned()
    CachedClient(first, store).ask([CALLS[0], CALLS[2], CALLS[0]])
    CachedClient(second, store).ask([CALLS[0], CALLS[1]])
    assert (first.asked, second.asked, len(store)) == (2, 1, 3)


def test_a_passing_failure_is_not_repeated_within_a_run_but_in_the_next(store):
    broken = Canned("http_500")
    asker = CachedClient(broken, store)
    asker.ask(CALLS[:1])
    assert asker.ask(CALLS[:1])[0].failure == "http_500"
    assert broken.asked == 1
    assert CachedClient(Canned(), store).ask(CALLS[:1])[0].failure is None
    assert store.totals().failures == {"http_500": 1}


class Weighed(Response):
    """A reply that a weak reference can watch; ``Response`` has slots only."""


def test_what_a_store_has_is_not_held_in_memory_too(store):
    alive = []

    class Writer(Canned):
        def answer(self, calls, done):
            for place, _ in enumerate(calls):
                reply = Weighed(logprobs=(-1.0, -2.0))
                alive.append(weakref.ref(reply))
                done(place, reply)

    asker = CachedClient(Writer(), store)
    replies = [reply.logprobs for reply in asker.ask(CALLS[:3:2])]
    gc.collect()
    assert [reply() for reply in alive] == [None, None]
    assert [reply.logprobs for reply in asker.ask(CALLS[:3:2])] == replies
    assert len(alive) == len(store) == 2


def test_without_a_store_replies_are_held_for_the_life_of_the_client():
    backend = Canned()
    asker = CachedClient(backend)
    assert asker.ask(CALLS[:3:2]) == asker.ask(CALLS[:3:2])
    assert backend.asked == 2


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_rows_are_exported_with_their_calls(store, tmp_path, ending):
    for row in zip(CALLS, REPLIES, strict=True):
        put(store, *row)
    path = tmp_path / "out" / f"replies.{ending}"
    assert export_replies(store, path) == 3
    if ending == "jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        rows = pq.read_table(path).to_pylist()
    assert [row["kind"] for row in rows] == ["choice", "generate", "loglikelihood"]
    assert json.loads(rows[1]["call"])["question"]["text"] == "why? \u2603"
    assert json.loads(rows[1]["call"])["decoding"]["stop"] == ["\n"]
    assert rows[0]["logprobs"] == [-0.25, None]
    assert rows[2]["logprobs"] == [-1.5, None]  # minus infinity
    assert (rows[1]["text"], rows[1]["finished"]) == ("because \u2603\n", False)
    assert (rows[0]["read_tokens"], rows[0]["cost_usd"], rows[0]["attempts"]) == (7, 0.5, 3)
    assert {row["created"] for row in rows} == {1000.0}
    assert {row["failure"] for row in rows} == {None}
    assert [len(row["digest"]) for row in rows] == [32, 32, 32]


def test_an_unknown_ending_is_refused(store, tmp_path):
    with pytest.raises(ValueError, match=r"\.jsonl or \.parquet"):
        export_replies(store, tmp_path / "x.csv")


def test_files_of_others_are_refused_and_left_alone(tmp_path):
    text = tmp_path / "text.sqlite"
    text.write_text("no database at all, but long enough to have a header " * 4)
    with pytest.raises(ValueError, match="cannot be read"):
        ReplyStore(text)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE notes (x)")
        connection.execute("PRAGMA user_version=1")
    with pytest.raises(ValueError, match="name another file"):
        ReplyStore(other)
    assert sqlite3.connect(other).execute("SELECT name FROM sqlite_master").fetchall() == [
        ("notes",)
    ]


def test_a_folder_in_place_of_the_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(OSError, match="expected to use the reply store"):
        ReplyStore(tmp_path)


@pytest.mark.parametrize("column", ["call", "logprobs"])
def test_a_damaged_cell_is_refused_with_the_file(store, column):
    put(store, CALLS[0], REPLIES[0])
    store.connection.execute(f"UPDATE replies SET {column} = ?", (b"\x00",))
    with pytest.raises(ValueError, match=f"{store.path} to be a .* cannot be read"):
        list(store.rows())
