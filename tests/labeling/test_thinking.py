"""Thoughts before a verdict: kept and counted, closed before the options are read, never parsed."""

import math
from dataclasses import replace

import pytest

from rlaif_pl.labeling.backends.local import LocalBackend
from rlaif_pl.labeling.calls import (
    ChoiceRequest,
    Decoding,
    GenerateRequest,
    Question,
    Response,
    ThinkRequest,
    key_of,
)
from rlaif_pl.labeling.strategies.pairwise import PairwiseLabeler
from rlaif_pl.labeling.strategies.scoring import ScoreLabeler
from rlaif_pl.labeling.strategy import CachedClient
from rlaif_pl.labeling.thinking import Thinking, thoughts_of
from rlaif_pl.labeling.usage.projection import estimate_cost
from rlaif_pl.labeling.usage.reply_store import ReplyStore
from rlaif_pl.models.chat_format import closing_of, marks_of, thinking_prompt

THINKS = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


@pytest.mark.parametrize(
    ("text", "beside", "is_cut", "thoughts", "is_closed"),
    [
        ("Two.", "One?", False, "One?", True),
        ("", "One?", True, "One?", False),  # the limit came before the answer
        ("", "One?", False, "One?", False),
        ("<think>One?</think>Two.", None, False, "One?", True),
        ("One?</think>Two.", None, False, "One?", True),  # the template opened it
        ("<think>One? But", None, True, "One? But", False),
        ("<think>One <think>b</think> c</think>Two.", None, False, "One b c", True),
        ("Two.", None, False, "", True),  # answered at once
        ("One? But", None, True, "One? But", False),
        ("[THINK]One?[/THINK]2", None, True, "One?", True),
        ("<think></think>2", None, False, "", True),
    ],
)
def test_thoughts_are_told_from_the_answer(text, beside, is_cut, thoughts, is_closed):
    found, closed = thoughts_of(text, beside, is_cut)
    assert closed == is_closed
    assert found == thoughts


class Thinker:
    """Thinks as told and answers 2 with probability 0.75, whatever the thoughts say."""

    fingerprint = "thinker"

    def __init__(self, failure=None):
        self.failure = failure
        self.calls = []

    def answer(self, calls, done):
        for place, call in enumerate(calls):
            self.calls.append(call)
            if isinstance(call, ThinkRequest):
                text = "The answer is 1. Preferred Summary=1"
                done(
                    place,
                    Response(text=text, read=10, written=50, cost_usd=1, failure=self.failure),
                )
            else:
                logs = (math.log(0.2), math.log(0.6))
                done(place, Response(logprobs=logs, read=60, written=1, cost_usd=2))


def thinking_labeler(backend, **options):
    options = {"thinking": Thinking(max_tokens=99), "chat_template": True} | options
    return PairwiseLabeler(backend, **options)


def test_a_label_has_two_steps_and_pays_for_both(pair):
    backend = Thinker()
    (label,) = thinking_labeler(backend).label([pair])
    assert [type(call) for call in backend.calls] == [
        ThinkRequest,
        ThinkRequest,
        ChoiceRequest,
        ChoiceRequest,
    ]
    assert backend.calls[0].decoding == Decoding(99, 0.6)
    for thought, choice in zip(backend.calls[:2], backend.calls[2:], strict=True):
        assert thought.question.thoughts is None
        told = "The answer is 1. Preferred Summary=1"
        assert choice.question == replace(thought.question, thoughts=told)
    found = label.provenance
    assert (found.tokens, found.written) == (2 * (60 + 61), 2 * 51)
    assert found.cost_usd == 6
    assert (found.slot, found.failure) == (2, None)  # of the probabilities, not of the thoughts
    assert label.p_first == pytest.approx(0.5)


def test_thoughts_without_an_end_are_a_failure_that_is_counted(pair):
    backend = Thinker(failure="unclosed_thought")
    (label,) = thinking_labeler(backend).label([pair])
    assert (label.p_first, label.provenance.failure) == (None, "unclosed_thought")
    assert label.provenance.written == 100
    assert not [call for call in backend.calls if isinstance(call, ChoiceRequest)]


def test_thoughts_are_kept_and_not_paid_for_twice(pair, tmp_path):
    with ReplyStore(tmp_path / "r.sqlite") as store:
        labeler = thinking_labeler(Thinker())
        labeler.keep_replies(store)
        labeler.label([pair])
        kinds = [row["kind"] for row in store.rows()]
        assert kinds == ["think", "think", "choice", "choice"]
        assert [row["text"] for row in store.rows()][0].startswith("The answer")
        backend = Thinker()
        again = thinking_labeler(backend)
        again.keep_replies(store)
        again.label([pair])
        assert backend.calls == []


def test_scores_think_too_and_estimates_say_so(pair):
    labeler = ScoreLabeler(Thinker(), chat_template=True, thinking=Thinking(max_tokens=99))
    plain = ScoreLabeler(Thinker(), chat_template=True)
    with_thoughts, without = (estimate_cost(each, [pair]) for each in (labeler, plain))
    assert with_thoughts.written == without.written + 2 * 99
    assert with_thoughts.calls == 2 * without.calls
    assert labeler.fingerprint != plain.fingerprint


@pytest.mark.parametrize(
    ("options", "said"),
    [({"chat_template": False}, "chat_template: true"), ({"cot": True}, "cot: false")],
)
def test_thoughts_need_a_chat_template_and_take_the_rationales_place(options, said):
    with pytest.raises(ValueError, match=said):
        thinking_labeler(Thinker(), **options)


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"temperature": -1}, {"top_k": -1}])
def test_thinking_that_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(ValueError, match="expected thinking with"):
        Thinking(**wrong)


def test_keys_of_calls_without_thoughts_are_what_they_were():
    known = key_of("f", ChoiceRequest(Question("a", "b"), ("1", "2"))).hex()
    assert known == "1e69596e5cd7f928655c08fe311553ee"
    assert key_of("f", GenerateRequest(Question("a"))).hex() == "970faa16e38e1f2ea8277ff7c099ee0d"


@pytest.fixture(scope="module")
def thinker(folders):
    """A local model whose template knows thoughts."""
    backend = LocalBackend(folders["llama"], max_tokens=400)
    backend.model.tokenizer.chat_template = THINKS
    return backend


def test_marks_come_from_the_template(tokenizer, thinker):
    made = thinker.model.tokenizer
    prompt = thinking_prompt(made, [{"role": "user", "content": "why?"}])
    assert prompt == "<s>user\nwhy?</s><s>assistant\n<think>\n"
    assert closing_of(prompt) == "</think>"
    assert marks_of("...[THINK]...") == ("[THINK]", "[/THINK]")
    with pytest.raises(ValueError, match="expected a model that thinks"):
        thinking_prompt(tokenizer, [{"role": "user", "content": "why?"}])


def test_a_local_verdict_stands_behind_closed_thoughts(thinker, plain_model):
    question = Question("Which?", "Better=", chat=True, thoughts="One </think> is</s> short.")
    (reply,) = CachedClient(thinker, min_option_mass=0).ask([ChoiceRequest(question, ("1", "2"))])
    plain, made = plain_model("llama"), thinker.model.tokenizer
    before = "<s>user\nWhich?</s><s>assistant\n<think>\nOne </think> is"
    after = " short.\n</think>\n\nBetter="
    ids = made(before, add_special_tokens=False).input_ids
    ids += [made.convert_tokens_to_ids(c) for c in "</s>"]  # text, as it came from the model
    ids += made(after, add_special_tokens=False).input_ids
    known = [plain.after(ids, made(o, add_special_tokens=False).input_ids)[0] for o in "12"]
    assert reply.logprobs == pytest.approx(known, abs=1e-4)


def test_local_thoughts_that_reach_the_budget_are_unclosed(thinker):
    calls = [
        ThinkRequest(Question("Which?", "Better=", chat=True), Decoding(5, 0.7, seed=n))
        for n in (1, 2)
    ]
    replies = CachedClient(thinker).ask(calls)
    assert [reply.failure for reply in replies] == ["unclosed_thought"] * 2
    assert all(reply.text and reply.written <= 5 for reply in replies)


def test_local_thoughts_end_at_their_mark(thinker, monkeypatch):
    think = ThinkRequest(Question("Which?", chat=True), Decoding(12))
    (whole,) = CachedClient(thinker).ask([think])
    mark = whole.text[
        4:7
    ]  # a random model writes no mark of its own accord: take what it does write
    monkeypatch.setattr("rlaif_pl.labeling.backends.local_rows.closing_of", lambda _: mark)
    (reply,) = CachedClient(thinker).ask([think])
    assert reply.text == whole.text[: whole.text.index(mark)]
    assert (reply.failure, reply.finished) == (None, True)
    assert reply.written < whole.written
