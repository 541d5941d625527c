"""Judges on servers that think first: what is asked for in each step, and what comes back."""

import math

import pytest

from rlaif_pl.labeling.backends.endpoint_errors import EndpointError
from rlaif_pl.labeling.calls import Decoding, Question, ThinkRequest
from rlaif_pl.labeling.strategies.pairwise import PairwiseLabeler
from rlaif_pl.labeling.thinking import Thinking

USAGE = {"prompt_tokens": 30, "completion_tokens": 20}
THOUGHT = "Slot 1 is better: 1, 1, 1."


def choice(finish="stop", table=(), **message):
    rows = [{"token": token, "logprob": math.log(mass)} for token, mass in table]
    made = {"message": {"role": "assistant", **message}, "finish_reason": finish}
    if rows:
        made["logprobs"] = {"content": [{**rows[0], "top_logprobs": rows}]}
    return {"choices": [made], "usage": USAGE}


def thinker(finish="stop", **message):
    """Answer a question with thoughts, and a begun answer with a table that names slot 2."""

    def reply(_, body):
        if body["messages"][-1]["role"] == "assistant":
            # a reasoning parser takes what follows for thoughts, too
            return choice(table=(("2", 0.6), ("1", 0.2)), content=None, reasoning="2")
        return choice(finish, **message)

    return reply


THINKERS = {
    "reasoning": {"reasoning": THOUGHT, "content": "1"},
    "reasoning_content": {"reasoning_content": THOUGHT, "content": "1"},
    "block": {"content": f"<think>\n{THOUGHT}\n</think>\n\n1"},
    "opened by the template": {"content": f"{THOUGHT}</think>1"},
    "parts": {
        "content": [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": "1"}]
    },
}


@pytest.mark.parametrize("message", THINKERS.values(), ids=THINKERS)
def test_a_soft_label_stands_behind_closed_thoughts(serve, endpoint, pair, message):
    server = serve(reply=thinker(**message))
    backend = endpoint(server, concurrency=1, max_tokens_field="max_completion_tokens")
    labeler = PairwiseLabeler(backend, chat_template=True, thinking=Thinking(99, top_k=20))
    (label,) = labeler.label([pair])
    first, _, third, _ = server.record.requests
    assert [turn["role"] for turn in first["messages"]] == ["user"]
    assert "Preferred" not in first["messages"][0]["content"][-40:]
    assert first["chat_template_kwargs"] == {"enable_thinking": True, "thinking": True}
    assert first["thinking_token_budget"] == 99
    assert (first["max_completion_tokens"], first["temperature"], first["top_k"]) == (131, 0.6, 20)
    assert third["messages"][0] == first["messages"][0]
    begun = third["messages"][1]["content"]
    assert begun == f"<think>\n{THOUGHT}\n</think>\n\nPreferred Summary="
    assert (third["continue_final_message"], third["add_generation_prompt"]) == (True, False)
    assert (label.provenance.slot, label.provenance.failure) == (2, None)
    assert label.provenance.off_option_mass == pytest.approx(0.2)
    assert (label.provenance.tokens, label.provenance.written) == (200, 80)


@pytest.mark.parametrize(
    ("finish", "message"),
    [
        ("length", {"reasoning": THOUGHT, "content": None}),
        ("length", {"content": f"<think>{THOUGHT}"}),
        ("length", {"content": THOUGHT}),  # opened by the template and never closed
        ("stop", {"reasoning": THOUGHT, "content": ""}),
    ],
)
def test_thoughts_without_an_end_are_counted_as_such(serve, endpoint, pair, finish, message):
    server = serve(reply=thinker(finish, **message))
    labeler = PairwiseLabeler(endpoint(server), chat_template=True, thinking=Thinking(99))
    (label,) = labeler.label([pair])
    assert (label.p_first, label.provenance.failure) == (None, "unclosed_thought")
    assert label.provenance.written == 40
    assert len(server.record.requests) == 2  # no verdict was asked for


def test_a_budget_that_the_server_does_not_take_is_left_out(serve, endpoint):
    why = "thinking_token_budget needs a reasoning parser"
    server = serve(reply=thinker(**THINKERS["block"]))
    arrive = server.arrive

    def judged(body):
        fault = arrive(body)
        return (400, why) if "thinking_token_budget" in body else fault

    server.arrive = judged
    heard = []
    with pytest.warns(UserWarning, match="started with a reasoning parser"):
        endpoint(server).answer(
            [ThinkRequest(Question("Which?", "Better=", chat=True), Decoding(9))],
            lambda _, reply: heard.append((reply.text, reply.failure, reply.finished)),
        )
    assert heard == [(THOUGHT, None, True)]


def test_marks_of_ones_own_and_plain_questions(serve, endpoint, pair):
    server = serve(reply=thinker(**THINKERS["reasoning"]))
    backend = endpoint(server, thought_marks=("[THINK]", "[/THINK]"))
    PairwiseLabeler(backend, chat_template=True, thinking=Thinking(9)).label([pair])
    begun = server.record.requests[-1]["messages"][1]["content"]
    assert begun.startswith(f"[THINK]\n{THOUGHT}\n[/THINK]\n\n")
    with pytest.raises(EndpointError, match="chat_template: true"):
        backend.answer([ThinkRequest(Question("plain"))], lambda *_: None)
