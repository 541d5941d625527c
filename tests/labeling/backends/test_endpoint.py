"""The endpoint back end against a server on loopback that misbehaves on purpose."""

import asyncio
import math
import os
import signal
import threading
import time

import pytest

from rlaif_pl.labeling.backends.endpoint_errors import EndpointError
from rlaif_pl.labeling.calls import (
    Backend,
    ChoiceRequest,
    Decoding,
    GenerateRequest,
    Question,
    Response,
)
from rlaif_pl.labeling.strategy import CachedClient
from rlaif_pl.labeling.usage.reply_store import ReplyStore
from rlaif_pl.labeling.usage.spending import BudgetTracker, OutOfBudget, Price


def ask(backend, calls):
    """Return replies in order; each must be reported once."""
    replies = {}

    def done(place, reply):
        assert place not in replies
        replies[place] = reply

    backend.answer(calls, done)
    return [replies[n] for n in range(len(calls))]


def verdicts(count):
    return [ChoiceRequest(Question(f"which one, {n}? "), ("1", "2")) for n in range(count)]


def test_the_back_end_is_one(serve, endpoint):
    assert isinstance(endpoint(serve()), Backend)


def test_verdicts_have_the_servers_log_probabilities(serve, endpoint, known_masses):
    server = serve()
    calls = verdicts(5)
    for call, reply in zip(calls, ask(endpoint(server), calls), strict=True):
        known = known_masses(call.question.text)
        # "10" begins with "1", but is no option here, so it counts for "1"
        expected = (math.log(known["1"] + known["10"]), math.log(known["2"]))
        assert reply.logprobs == pytest.approx(expected, abs=1e-9)
        assert (reply.read, reply.written, reply.attempts, reply.failure) == (3, 1, 1, None)
        assert 0 < reply.seconds < 60
    assert {body["max_tokens"] for body in server.record.requests} == {1}


def test_a_verdict_that_is_not_reported_stays_unknown(serve, endpoint):
    (reply,) = ask(endpoint(serve()), [ChoiceRequest(Question("x"), ("2", "7"))])
    assert reply.logprobs[0] is not None
    assert reply.logprobs[1] is None
    assert reply.failure is None


def test_no_more_calls_are_in_flight_than_allowed(serve, endpoint):
    server = serve(latency=0.03)
    ask(endpoint(server, concurrency=3), verdicts(12))
    assert server.record.most_at_once == 3


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("malformed", "malformed_reply"),
        ("cut", "connection"),
        ("status_500", "http_500"),
        ("burst_429", "http_429"),
        ("stall", "timeout"),
    ],
)
def test_a_fault_is_retried_and_reported_by_its_kind_if_it_stays(serve, endpoint, fault, kind):
    server = serve()
    backend = endpoint(server, max_retries=2, timeout=1.0 if fault == "stall" else 60.0)
    server.script.extend([fault] * 2)
    (reply,) = ask(backend, verdicts(1))
    assert (reply.failure, reply.attempts) == (None, 3)
    server.script.extend([fault] * 3)
    (reply,) = ask(backend, verdicts(1))
    assert (reply.failure, reply.attempts, reply.logprobs) == (kind, 3, ())


def test_missing_log_probabilities_are_asked_for_once_more_only(serve, endpoint):
    server = serve()
    server.script.extend(["no_logprobs"])
    assert ask(endpoint(server), verdicts(1))[0].attempts == 2
    server.script.extend(["no_logprobs"] * 2)
    (reply,) = ask(endpoint(server), verdicts(1))
    assert (reply.failure, reply.attempts) == ("no_logprobs", 2)


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "This model's maximum context length is 512 tokens", "too_long"),
        (413, "payload", "too_long"),
        (400, "blocked by content_filter", "refused"),
        (400, "bad field", "http_400"),
        (422, "bad field", "http_422"),
    ],
)
def test_what_lies_with_the_question_is_not_retried(serve, endpoint, status, message, kind):
    server = serve()
    server.script.append((status, message))
    (reply,) = ask(endpoint(server), verdicts(1))
    assert (reply.failure, reply.attempts) == (kind, 1)


@pytest.mark.parametrize(
    ("status", "message", "way_out"),
    [
        (401, "bad key", "TEST_ENDPOINT_KEY .api_key_env"),
        (402, "insufficient credits", "no more money.*TEST_ENDPOINT_KEY"),
        (403, "not for you", "TEST_ENDPOINT_KEY .api_key_env"),
        (404, "no such model. Valid aliases: big", "set model .now 'tiny'.*base_url"),
        (429, "insufficient_quota", "no more money.*TEST_ENDPOINT_KEY"),
    ],
)
def test_a_server_of_no_use_stops_the_job_after_the_calls_in_flight(
    serve, endpoint, status, message, way_out
):
    server = serve(latency=0.05)
    server.script.extend([None, (status, message)])
    heard = []
    with pytest.raises(EndpointError, match=f"{server.url}.*{way_out}.*HTTP {status}.: {message}"):
        endpoint(server, concurrency=2).answer(verdicts(40), lambda n, _: heard.append(n))
    assert len(server.record.requests) <= 4
    assert len(heard) == server.record.served.total()


def test_a_server_that_is_gone_is_given_up(serve, endpoint):
    server = serve()
    server.close()
    heard = []
    backend = endpoint(server, max_retries=1, concurrency=2)
    with pytest.raises(EndpointError, match=f"Cannot reach {server.url}.*Start the server"):
        backend.answer(verdicts(100), lambda _, reply: heard.append(reply.failure))
    assert set(heard) == {"connection"}
    assert 20 <= len(heard) <= 22


def test_a_server_that_asks_for_time_gets_it_from_all_calls(serve, endpoint):
    server = serve()
    server.script.append("burst_429")
    started = time.monotonic()
    replies = ask(endpoint(server, first_wait=0.0, concurrency=1), verdicts(3))
    assert time.monotonic() - started > 0.05
    assert [reply.attempts for reply in replies] == [2, 1, 1]


def test_a_wait_longer_than_allowed_is_a_failure(serve, endpoint):
    server = serve()
    server.script.append("burst_429")
    (reply,) = ask(endpoint(server, longest_wait=0.01), verdicts(1))
    assert (reply.failure, reply.attempts) == ("http_429", 1)


def test_missing_logprobs_after_another_fault_are_asked_for_again(serve, endpoint):
    server = serve()
    server.script.extend(["status_500", "no_logprobs", "malformed", "no_logprobs"])
    (reply,) = ask(endpoint(server, concurrency=1, first_wait=0.0), verdicts(1))
    assert (reply.failure, reply.attempts) == (None, 5)
    server.script.extend(["no_logprobs", "no_logprobs"])
    (reply,) = ask(endpoint(server, concurrency=1, first_wait=0.0), verdicts(1))
    assert (reply.failure, reply.attempts) == ("no_logprobs", 2)


def test_every_call_survives_a_faulty_server(serve, endpoint, faults, known_masses):
    server = serve(faults(0.05, 0.03, 0.05, 0.02, 0.01, 0.03, seed=4), latency=0.002)
    calls = verdicts(200)
    replies = ask(endpoint(server, timeout=3.0, max_retries=10), calls)
    failed = [reply.failure for reply in replies if reply.failure is not None]
    assert set(failed) <= {"no_logprobs"}  # two in a row are taken for a server without
    assert len(failed) <= 2
    for call, reply in zip(calls, replies, strict=True):
        if reply.failure is None:
            known = known_masses(call.question.text)
            assert reply.logprobs[1] == pytest.approx(math.log(known["2"]), abs=1e-9)
    # a request that the client gave up before it was read whole is not on the server's list
    assert sum(reply.attempts for reply in replies) >= len(server.record.requests)
    assert set(server.record.faults) == {
        "malformed", "cut", "status_500", "burst_429", "stall", "no_logprobs"
    }  # fmt: skip
    assert server.record.served.total() >= 200 - len(failed)


def test_texts_are_drawn_by_seed_and_sample(serve, endpoint):
    server = serve()
    decoding = Decoding(max_tokens=7, temperature=0.5, top_k=40, stop=("\n",), seed=3)
    calls = [GenerateRequest(Question("why?"), decoding, sample) for sample in (0, 1)]
    first, second = ask(endpoint(server, concurrency=1), calls)
    assert first.text != second.text
    body = server.record.requests[0]
    assert (body["prompt"], body["max_tokens"], body["temperature"]) == ("why?", 7, 0.5)
    assert (body["top_k"], body["stop"]) == (40, ["\n"])
    assert "logprobs" not in body


def test_greedy_texts_need_no_seed_and_no_top_k(serve, endpoint):
    server = serve()
    backend = endpoint(server, supports_top_k=False)
    ask(backend, [GenerateRequest(Question("why?"), Decoding(max_tokens=7, top_k=40))])
    assert not {"seed", "top_k"} & set(server.record.requests[0])
    drawn = GenerateRequest(Question("why?"), Decoding(max_tokens=7, top_k=40, temperature=1.0))
    with pytest.raises(EndpointError, match="set top_k to 0"):
        ask(backend, [drawn])


def test_a_text_cut_by_the_limit_says_so(serve, endpoint):
    (reply,) = ask(endpoint(serve()), [GenerateRequest(Question("why?"), Decoding(max_tokens=1))])
    assert not reply.finished


@pytest.mark.parametrize(
    ("text", "finish", "kind"),
    [("", "stop", "empty"), (" \n", "length", "empty"), ("no", "content_filter", "refused")],
)
def test_texts_that_are_none(serve, endpoint, text, finish, kind):
    def reply(*_):
        choice = {"text": text, "finish_reason": finish, "logprobs": None}
        return {"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 0}}

    (found,) = ask(endpoint(serve(reply=reply)), [GenerateRequest(Question("why?"))])
    assert found.failure == kind


def test_chat_puts_the_opening_where_it_is_told(serve, endpoint):
    server = serve()
    call = ChoiceRequest(Question("Which?", assistant_prefix="Better: ", chat=True), ("1", "2"))
    ask(endpoint(server), [call])
    ask(endpoint(server, chat_assistant_prefix="assistant"), [call])
    one, two = server.record.requests
    assert one["messages"] == [{"role": "user", "content": "Which?\n\nBetter: "}]
    assert two["messages"] == [
        {"role": "user", "content": "Which?"},
        {"role": "assistant", "content": "Better: "},
    ]
    assert (two["continue_final_message"], two["add_generation_prompt"]) == (True, False)
    assert (one["logprobs"], one["top_logprobs"]) == (True, 20)


def test_a_chat_server_gets_plain_questions_as_messages(serve, endpoint):
    server = serve()
    ask(endpoint(server, api="chat"), verdicts(1))
    assert server.record.requests[0]["messages"][0]["content"] == "which one, 0? "


def test_a_chat_question_is_refused_where_there_is_only_completion(serve, endpoint):
    call = ChoiceRequest(Question("Which?", chat=True), ("1", "2"))
    with pytest.raises(EndpointError, match="set api to auto"):
        ask(endpoint(serve(), api="completions"), [call])


def test_money_is_counted_and_stops_the_job(serve, endpoint, tmp_path):
    # 3 tokens read at 2 USD and 1 written at 4 USD per million: 10 millionths of a USD a call
    server = serve(latency=0.01)
    backend = endpoint(server, prices={"tiny": Price(2.0, 4.0)}, concurrency=4)
    spending = BudgetTracker(max_cost=75e-6)
    with ReplyStore(tmp_path / "r.sqlite") as store:
        asker = CachedClient(backend, store, spending.count)
        with pytest.raises(OutOfBudget):
            asker.ask(verdicts(100))
        # the eighth call reaches the limit; at most three more were in flight
        assert 8 <= spending.calls <= 11
        assert len(store) == spending.calls == server.record.served.total()
        assert store.totals().cost_usd == pytest.approx(spending.calls * 10e-6)
        replies = CachedClient(backend, store).ask(verdicts(100))
        assert server.record.served.total() == len(store) == 100
        assert max(server.record.served.values()) == 1
        assert sum(reply.cost_usd for reply in replies) == pytest.approx(1000e-6)


def test_an_error_of_the_listener_stops_the_job_but_loses_nothing_in_flight(serve, endpoint):
    server = serve(latency=0.05)
    heard = []

    def done(place, _):
        heard.append(place)
        if len(heard) == 1:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        endpoint(server, concurrency=4).answer(verdicts(40), done)
    assert len(heard) == 4 == server.record.served.total()


def test_where_a_loop_runs_already_replies_are_kept_and_told_one_at_a_time(
    serve, endpoint, tmp_path
):
    calls, threads = verdicts(6), []

    async def cell():  # as a notebook runs one
        with ReplyStore(tmp_path / "r.sqlite") as store:

            def watch(*_):
                threads.append(threading.get_ident())

            return CachedClient(endpoint(serve()), store, watch).ask(calls), len(store)

    replies, kept = asyncio.run(cell())
    plain = ask(endpoint(serve()), calls)
    assert [reply.logprobs for reply in replies] == [reply.logprobs for reply in plain]
    assert len(threads) == 6
    assert len(set(threads)) == 1
    assert kept == 6


def test_where_a_loop_runs_already_an_interrupt_ends_what_is_in_flight(serve, endpoint):
    server, heard = serve(latency=20.0), []

    async def cell():
        endpoint(server).answer(verdicts(4), lambda place, _: heard.append(place))

    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    loop, started = asyncio.new_event_loop(), time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(cell())
    finally:
        loop.close()
    assert time.monotonic() - started < 15
    assert heard == []


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt("disk full")])
def test_where_a_loop_runs_already_an_error_of_the_listener_stops_the_job(serve, endpoint, error):
    server, heard = serve(latency=0.05), []

    def done(place, _):
        heard.append(place)
        if len(heard) == 1:
            raise error

    async def cell():
        endpoint(server, concurrency=4).answer(verdicts(40), done)

    with pytest.raises(type(error)):
        asyncio.run(cell())
    assert 1 <= len(heard) <= 4
    assert server.record.served.total() <= 4


def test_the_same_weights_have_the_same_identity_at_any_address(serve, endpoint):
    one, two = endpoint(serve()), endpoint(serve())
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint != endpoint(serve(), revision="q4").fingerprint
    assert one.fingerprint != endpoint(serve(), extra_body={"top_p": 0.9}).fingerprint


@pytest.mark.parametrize(
    "option",
    [
        {"concurrency": 0},
        {"timeout": 0.0},
        {"max_retries": -1},
        {"api": "Chat"},
        {"chat_assistant_prefix": "system"},
    ],
)
def test_settings_that_cannot_work_are_refused(serve, endpoint, option):
    with pytest.raises(ValueError, match=next(iter(option))):
        endpoint(serve(), **option)


def test_a_model_without_a_price_is_refused(serve, endpoint):
    with pytest.raises(ValueError, match="expected a price for 'tiny'"):
        endpoint(serve(), prices={"other": Price(1.0, 1.0)})


def test_replies_are_plain(serve, endpoint):
    assert isinstance(ask(endpoint(serve()), verdicts(1))[0], Response)
