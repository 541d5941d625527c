"""Thoughts are no answers: told apart in text, closed in prompts, the same for every strategy."""

import copy

import pytest

from rlaif_pl.labeling.backends.local_rows import Encoder
from rlaif_pl.labeling.calls import GenerateRequest, Question, Response
from rlaif_pl.labeling.prompting.extraction import extract_verdict
from rlaif_pl.labeling.strategies.pairwise import FreeFormLabeler, PairwiseLabeler
from rlaif_pl.labeling.strategy import CachedClient
from rlaif_pl.labeling.thinking import answer_of
from rlaif_pl.models.chat_format import answer_prompt, close_thought


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Two.", "Two."),
        (" Two. 1 < 2 \n", " Two. 1 < 2 \n"),  # without marks nothing is touched
        ("<think>One.</think>\n\nTwo.", "Two."),
        ("<THINK>One.</THINK> Two.", "Two."),
        ("<thinking>One.</thinking>Two.", "Two."),
        ("<thought>One.</thought>Two.", "Two."),
        ("<reasoning>One.</reasoning>Two.", "Two."),
        ("<seed:think>One.</seed:think>Two.", "Two."),
        ("[THINK]One.[/THINK]Two.", "Two."),
        ("◁think▷One.◁/think▷Two.", "Two."),
        ("<|begin_of_thought|>1<|end_of_thought|><|begin_of_solution|>2<|end_of_solution|>", "2"),
        ("<|START_THINKING|>1<|END_THINKING|><|START_RESPONSE|>2<|END_RESPONSE|>", "2"),
        (
            "<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>final"
            "<|message|>Two.<|return|>",
            "Two.",
        ),
        ("analysisWe look at one.assistantfinalTwo.", "Two."),
        ("analysis: the first one", "analysis: the first one"),
        ("<think>One.</think><answer>Two.</answer>", "Two."),
        ("One, as the template began it.</think>Two.", "Two."),
        ("<think>a <think>b</think> c</think>Two.", "Two."),
        ("It is <think>One?</think> Two.", "It is Two."),
        ("<think></think>", ""),
        ("<think>One. But", None),
        ("Two. <think>Or one", None),
        ("<think>One.</think>Two.<think>Or", None),
    ],
)
def test_an_answer_is_what_stands_outside_of_thoughts(text, answer):
    assert answer_of(text) == answer


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("<think>Summary 1 is better.</think>\nSummary 2.", "second"),
        ("<think>I prefer Summary 1. No.</think>\n**Summary 2** is better.", "second"),
        ("<think>Both are good.</think>\nSummary 1, since it is short.", "first"),
        ("Summary 1 is better, or is it?</think>My verdict: Summary 2", "second"),
        ("<think>Summary 1 is better, but wait", "unclosed_thought"),
        ("<think>Summary 1 is better.</think>", "malformed"),
    ],
)
def test_a_verdict_stands_behind_the_thoughts(text, verdict):
    assert extract_verdict(f"The better one is {text}") == verdict


def test_a_prompt_that_opens_a_thought_is_closed():
    assert close_thought("user: hi\nassistant:") == "user: hi\nassistant:"
    assert close_thought("assistant\n<think>\n") == "assistant\n<think>\n\n</think>\n\n"
    assert close_thought("[THINK]") == "[THINK]\n\n[/THINK]\n\n"
    closed = "assistant\n<think>\n\n</think>\n\n"
    assert close_thought(closed) == closed
    final = "<|start|>assistant<|channel|>final<|message|>"
    assert close_thought("<|start|>assistant") == final


OPENS = "{% for m in messages %}{{ m['content'] }}{% endfor %}<think>\n"
KNOWS = (
    "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    "{% if enable_thinking is defined and enable_thinking is false %}/off{% else %}<think>{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "text"), [(OPENS, "Which?<think>\n\n</think>\n\n"), (KNOWS, "Which?/off")]
)
def test_a_local_verdict_is_read_after_the_thoughts_end(tokenizer, template, text):
    thinking = copy.deepcopy(tokenizer)
    thinking.chat_template = template
    assert answer_prompt(thinking, [{"role": "user", "content": "Which?"}]) == text
    row = Encoder(thinking, 500).question(Question("Which?", "Better: ", chat=True))
    assert thinking.decode(row.ids) == text + "Better: "


def test_strategies_see_no_thoughts_and_stores_keep_them(hashed, pair):
    seen = []

    class Store:
        def get_many(self, _):
            return {}

        def put(self, _key, _call, reply, _fingerprint):
            seen.append(reply.text)

    calls = [GenerateRequest(Question("a")), GenerateRequest(Question("b"))]
    texts = {"a": "<think>x</think>y", "b": "<think>x"}
    backend = hashed(write=lambda call: texts[call.question.text])
    first, second = CachedClient(backend, Store()).ask(calls)
    assert (first.text, first.failure, second.failure) == ("y", None, "unclosed_thought")
    assert sorted(seen) == sorted(texts.values())


def test_words_are_read_behind_thoughts_in_both_orders(hashed, pair):
    def write(call):
        text = call.question.text
        right = 1 if text.index(pair.first) < text.index(pair.second) else 2
        return f"<think>Summary {3 - right} is better.</think>\nSummary {right}."

    (judged,) = FreeFormLabeler(hashed(write=write)).label([pair])
    assert judged.p_first == 1.0
    (cut,) = FreeFormLabeler(hashed(write=lambda _: "<think>Summary 1 is")).label([pair])
    assert (cut.p_first, cut.provenance.failure) == (None, "unclosed_thought")


def test_a_rationale_is_what_stands_behind_the_thoughts(hashed, pair):
    backend = hashed(write=lambda _: "<think>Is it 1?</think> It names the rain.")
    PairwiseLabeler(backend, cot=True).label([pair])
    verdicts = [call for call in backend.asked if not isinstance(call, GenerateRequest)]
    assert len(verdicts) == 2
    assert all("It names the rain." in call.question.assistant_prefix for call in verdicts)
    assert not any("Is it 1?" in call.question.assistant_prefix for call in verdicts)
    unclosed = hashed(write=lambda _: "<think>Is it 1? Or")
    (cut,) = PairwiseLabeler(unclosed, cot=True).label([pair])
    assert cut.provenance.failure == "unclosed_thought"


def test_a_failed_reply_stays_as_it_is(hashed):
    (reply,) = CachedClient(hashed(fail=lambda _: "timeout")).ask([GenerateRequest(Question("a"))])
    assert reply == Response(read=1, cost_usd=0.001, failure="timeout")
