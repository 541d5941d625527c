"""``revise`` and ``evaluate revisions`` by the command line: files, counts, kills, no text shown."""

import os
import signal
import time

import pytest

from rlaif_pl.cli.commands.evaluate import revisions
from rlaif_pl.cli.commands.revise import revise
from rlaif_pl.data.revisions import read_revisions
from rlaif_pl.data.sources import DataSource, load_demonstrations, load_prompts
from rlaif_pl.labeling.calls import Response
from rlaif_pl.labeling.usage.reply_store import ReplyStore
from rlaif_pl.labeling.usage.spending import OutOfBudget
from rlaif_pl.recipes.constitutional import RevisionOptions

PROMPTS = DataSource("tiny_requests/train", limit=6)
OPTIONS = RevisionOptions(rounds=2, shots=0)
CALLS = 6 * 5  # an answer, and two rounds of critique and revision
PATIENCE = 20  # seconds


class SlowBackend:
    """Says how long what it read was, a cent a call; adds a letter to a file when a reply is kept."""

    fingerprint = "slow"

    def __init__(self, seconds=0.0, log=os.devnull):
        self.seconds = seconds
        self.log = log
        self.asked = 0

    def answer(self, calls, done):
        for place, call in enumerate(calls):
            time.sleep(self.seconds)
            self.asked += 1
            text = f" I read {len(call.question.text)} letters."
            done(place, Response(text=text, read=9, written=5, cost_usd=0.01))
            with open(self.log, "a", encoding="utf-8") as stream:
                stream.write(".")


def texts(out):
    """The files that a job makes, as they are on disk."""
    return [(out / name).read_bytes() for name in ("revisions.jsonl", "demonstrations.jsonl")]


def test_a_killed_job_goes_on_and_ends_with_the_same_files(tmp_path):
    out, whole = tmp_path / "broken", tmp_path / "whole"
    log = tmp_path / "log"
    log.touch()
    for count in (4, 13, 22):
        pid = os.fork()
        if not pid:
            try:
                revise(PROMPTS, str(out), SlowBackend(0.02, log), OPTIONS)
            finally:
                os._exit(1)
        deadline = time.monotonic() + PATIENCE
        while log.stat().st_size < count and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert not (out / "revisions.jsonl").exists()
    with ReplyStore(out / "replies.sqlite") as store:
        before = len(store)
    assert 22 <= before < CALLS
    backend = SlowBackend()
    revise(PROMPTS, str(out), backend, OPTIONS)
    assert backend.asked == CALLS - before
    with ReplyStore(out / "replies.sqlite") as store:
        assert (len(store), store.totals().answered) == (CALLS, CALLS)  # nothing was paid for twice
    revise(PROMPTS, str(whole), SlowBackend(), OPTIONS)
    assert texts(out) == texts(whole)


def test_a_job_stops_at_its_limit_and_goes_on(tmp_path):
    backend = SlowBackend()
    with pytest.raises(OutOfBudget, match="7 calls were made in this run and all are kept"):
        revise(PROMPTS, str(tmp_path), backend, OPTIONS, max_cost=0.065)
    assert revise(PROMPTS, str(tmp_path), backend, OPTIONS) == 0
    assert backend.asked == CALLS


def test_chunks_change_nothing(tmp_path):
    for chunk in (1, 4, 256):
        revise(PROMPTS, str(tmp_path / str(chunk)), SlowBackend(), OPTIONS, chunk=chunk)
    assert texts(tmp_path / "1") == texts(tmp_path / "4") == texts(tmp_path / "256")


def test_helpful_prompts_are_mixed_in_and_answered_where_they_must(tmp_path):
    (tmp_path / "h.jsonl").write_text(
        '{"text": "Why?", "reference": "Because."}\n{"text": "How?"}\n', encoding="utf-8"
    )
    backend = SlowBackend()
    revise(PROMPTS, str(tmp_path), backend, OPTIONS, helpful=str(tmp_path / "h.jsonl"))
    found = load_demonstrations(str(tmp_path / "demonstrations.jsonl"))
    ordinary = {row.text: row.reference for row in found if row.text in ("Why?", "How?")}
    assert ordinary["Why?"] == "Because."
    assert ordinary["How?"].startswith("I read")
    assert backend.asked == CALLS + OPTIONS.helpful_answers
    kinds = [row.kind for row in read_revisions(tmp_path / "revisions.jsonl")]
    assert kinds == ["harmful"] * 18 + ["helpful"] * 2  # both samples, though they said the same


def test_both_commands_on_a_model_show_counts_and_no_text(
    command, out, tiny_model_folder, capfd, tmp_path
):
    model = f"--backend={tiny_model_folder}"
    words = ["--prompts.name=tiny_requests/final", "--prompts.limit=4", model, "--cut=keep"]
    options = ["rounds=2", "shots=0", "max_answer_tokens=8", "max_critique_tokens=6"]
    metrics = command("revise", *words, *(f"--options.{option}" for option in options))
    assert metrics["revise/prompts"] == 4
    assert metrics["revise/round_0/responses"] + metrics.get("revise/round_0/answer_empty", 0) <= 4
    rows = read_revisions(out / "revisions.jsonl")
    revised = tmp_path / "revisions.jsonl"
    revised.write_bytes((out / "revisions.jsonl").read_bytes())
    judge = [
        "--harmless=rlaif_pl.labeling.ConstitutionLabeler",
        "--harmless.verdict.min_option_mass=0",
        f"--harmless.backend={tiny_model_folder}",
        "--harmless_gold.name=tiny_requests/dev",
        "--harmless_gold.limit=6",
        "--draws=20",
    ]
    metrics = command("evaluate revisions", f"--revisions={revised}", *judge)
    assert 0 <= metrics["revisions/harmless/round_1_vs_0"] <= 1
    assert 0 <= metrics["revisions/harmless/judge_alignment"] <= 1
    assert (out / "rounds.svg").stat().st_size > 1000
    printed = "".join(capfd.readouterr())
    assert "first answer" in printed
    prompts = load_prompts("tiny_requests/final")
    requests = [p.text.removeprefix("\n\nHuman: ").removesuffix("\n\nAssistant:") for p in prompts]
    for secret in [*requests, *(row.response for row in rows if len(row.response) > 6)]:
        assert secret not in printed


def test_a_file_in_place_of_the_folder_is_refused_before_there_is_a_judge(tmp_path):
    revise(PROMPTS, str(tmp_path), SlowBackend(), OPTIONS)
    rows, out = tmp_path / "revisions.jsonl", tmp_path / "demonstrations.jsonl"
    with pytest.raises(FileExistsError):
        revisions(str(rows), str(out), "no labeler", replies=str(tmp_path / "judge.sqlite"))
