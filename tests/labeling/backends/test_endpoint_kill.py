"""kill -9 at random points of a labeling job: nothing lost, nothing kept is paid for again."""

import os
import random
import signal
import time

import openai  # noqa: F401 - here once, not in every forked process
import pandas as pd  # noqa: F401
import pytest

from rlaif_pl.data.label_store import LabelStore
from rlaif_pl.data.labeling_pass import label_pairs
from rlaif_pl.labeling.calls import ChoiceRequest, Question
from rlaif_pl.labeling.outcome import Judgment
from rlaif_pl.labeling.strategy import ModelLabeler
from rlaif_pl.labeling.usage.reply_store import ReplyStore
from rlaif_pl.labeling.usage.spending import Price
from rlaif_pl.types import Preference

PAIRS = [Preference(f"post {n}", f"long {n}", f"short {n}", f"g{n}") for n in range(100)]
CALLS = 2 * len(PAIRS)
KILLS = 10
CONCURRENCY = 8
PATIENCE = 300  # seconds, for machines that are busy with something else


class BothOrders(ModelLabeler):
    """Asks which is better in both orders, as briefly as can be."""

    strategy = "both-orders"
    prompt_version = "1"

    def judge(self, pairs, ask):
        calls = [
            ChoiceRequest(Question(f"{pair.prompt} {one} {two}?"), ("1", "2"))
            for pair in pairs
            for one, two in ((pair.first, pair.second), (pair.second, pair.first))
        ]
        replies = ask(calls)
        found = []
        for forward, backward in zip(replies[::2], replies[1::2], strict=True):
            odds = [reply.logprobs[0] - reply.logprobs[1] for reply in (forward, backward)]
            tokens = sum(reply.read + reply.written for reply in (forward, backward))
            found.append(Judgment((odds[0] - odds[1]) / 2, tokens=tokens))
        return found


def work(backend, folder):
    """Label all pairs; what a job of its own would do."""
    labeler = BothOrders(backend, temperature=1.0)
    with (
        ReplyStore(folder / "replies.sqlite") as replies,
        LabelStore(folder / "labels.sqlite") as labels,
    ):
        labeler.keep_replies(replies)
        return label_pairs(PAIRS, labeler, labels, chunk=32, progress=False)


def start(backend, folder):
    """Start the job as a process of its own; forked, since importing anew takes longer than the job."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work(backend, folder)
        status = 0
    finally:
        os._exit(status)


def kill_after(pid, server, served):
    """Kill the job once the server has answered so many calls in all; False if it ended before."""
    deadline = time.monotonic() + PATIENCE
    while server.record.served.total() < served and time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            return False
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def prompts_kept(folder):
    """Prompts of the calls that are committed."""
    if not (folder / "replies.sqlite").exists():
        return set()
    with ReplyStore(folder / "replies.sqlite") as store:
        return {call_prompt(row["call"]) for row in store.rows()}


def call_prompt(text):
    return text.split('"text": "')[1].split('"')[0]


@pytest.mark.slow
def test_ten_kills_lose_nothing_and_repeat_only_what_was_in_flight(serve, endpoint, tmp_path):
    server = serve(latency=0.004)
    backend = endpoint(server, concurrency=CONCURRENCY, prices={"tiny": Price(2.0, 4.0)})
    draw = random.Random(17)
    points = sorted(draw.sample(range(5, CALLS - 40), KILLS))
    kills, when_kept = 0, {}
    for point in points:
        if not kill_after(start(backend, tmp_path), server, point + kills * CONCURRENCY):
            break
        kills += 1
        server.wait_until_idle()
        kept, before = prompts_kept(tmp_path), dict(server.record.served)
        assert len(before) - len(kept) <= CONCURRENCY
        for prompt in kept:
            when_kept.setdefault(prompt, before[prompt])
    assert kills == KILLS
    result = work(backend, tmp_path)
    served = server.record.served

    assert [row.prompt for row in result.rows] == [pair.prompt for pair in PAIRS]
    assert not result.unusable
    assert len(served) == CALLS  # every call was answered, and
    assert all(
        served[prompt] == count for prompt, count in when_kept.items()
    )  # kept ones not again
    paid_twice = served.total() - CALLS
    assert paid_twice <= KILLS * CONCURRENCY
    with ReplyStore(tmp_path / "replies.sqlite") as store:
        rows = list(store.rows())
        totals = store.totals()
    assert len({row["digest"] for row in rows}) == len(rows) == CALLS
    assert (totals.calls, totals.answered, totals.failures) == (CALLS, CALLS, {})
    tokens = sum(len(call_prompt(row["call"]).split()) for row in rows)
    assert (totals.read, totals.written) == (tokens, CALLS)
    assert totals.cost_usd == pytest.approx((2 * tokens + 4 * CALLS) / 1e6)
    labeled = sum(row.provenance.tokens for row in result.rows)
    assert labeled == totals.read + totals.written


def test_labels_after_kills_equal_those_of_an_unbroken_job(serve, endpoint, tmp_path):
    server = serve()
    backend = endpoint(server, concurrency=CONCURRENCY)
    for folder in ("broken", "whole"):
        (tmp_path / folder).mkdir()
    assert kill_after(start(backend, tmp_path / "broken"), server, 90)
    server.wait_until_idle()
    broken = work(backend, tmp_path / "broken")
    whole = work(backend, tmp_path / "whole")
    assert broken.rows == whole.rows
