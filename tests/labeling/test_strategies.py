"""What holds for every strategy alike."""

import pickle
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif_pl.labeling import (
    ChainOfThought,
    ConstitutionLabeler,
    EnsembleLabeler,
    FreeFormLabeler,
    LikelihoodLabeler,
    PairwiseLabeler,
    ScoreLabeler,
)
from rlaif_pl.labeling.calls import GenerateRequest
from rlaif_pl.labeling.outcome import VerdictOptions
from rlaif_pl.types import Labeler, PointwiseLabeler

TEXT = st.text(alphabet="ab {}\n\"'%\\é", max_size=12)
DRAWN = {"cot": ChainOfThought(samples=3, temperature=0.7, top_k=40)}
ANSWERS = (
    " the first one.",
    " Summary 2, as it is shorter.",
    " neither.",
    "",
    " equally good.",
    " I'm sorry, I can't.",
)


def says(call):
    """A written verdict that follows from the text, one time in three none at all."""
    return ANSWERS[sum(call.question.text.encode()) % len(ANSWERS)]


HARD = VerdictOptions(hard=True)
WAYS = {
    "zero shot": lambda backend: PairwiseLabeler(backend),
    "few shot, harmless": lambda b: PairwiseLabeler(b, task="harmless", preamble="base", shots=2),
    "chain of thought": lambda b: PairwiseLabeler(b, task="helpful", cot=True, chat_template=True),
    "self-consistency": lambda b: PairwiseLabeler(b, shots=3, **DRAWN),
    "one-hot": lambda b: PairwiseLabeler(b, verdict=HARD),
    "clamped": lambda b: PairwiseLabeler(
        b, task="harmless", cot=True, verdict=VerdictOptions(clamp=(0.4, 0.6)), temperature=0.3
    ),
    "free form": lambda b: FreeFormLabeler(b),
    "free form, harmless": lambda b: FreeFormLabeler(b, task="harmless"),
    "score": lambda b: ScoreLabeler(b),
    "score, one-hot": lambda b: ScoreLabeler(b, task="harmless", verdict=HARD),
    "constitution": lambda b: ConstitutionLabeler(b, shots=2),
    "constitution, chain of thought": lambda b: ConstitutionLabeler(b, seed=4, **DRAWN),
    "ensemble": lambda b: EnsembleLabeler(
        [PairwiseLabeler(b), ScoreLabeler(b), ConstitutionLabeler(b, verdict=HARD)],
        weights=[3, 2, 1],
    ),
    "ensemble that skips": lambda b: EnsembleLabeler(
        [FreeFormLabeler(b), PairwiseLabeler(b)], on_failure="skip"
    ),
}


# Of these there is no prompt with a question.
LIKELIHOODS = {
    "likelihood": lambda b: LikelihoodLabeler(b),
    "likelihood with PMI": lambda b: LikelihoodLabeler(b, pmi_weight=0.2, normalize="sum"),
}
EVERY = WAYS | LIKELIHOODS


def swapped(pair):
    return replace(pair, first=pair.second, second=pair.first)


@pytest.mark.parametrize("way", EVERY)
@settings(max_examples=20, deadline=None)
@given(prompt=TEXT, first=TEXT, second=TEXT)
def test_swapping_the_responses_swaps_the_label_exactly(hashed, pair, way, prompt, first, second):
    given_pair = replace(pair, prompt=prompt, first=first, second=second)
    labeler = EVERY[way](hashed(write=says if "free" in way or "skips" in way else None))
    one, other = labeler.label([given_pair, swapped(given_pair)])
    a, b = one.provenance, other.provenance
    assert (a.tokens, a.written, a.failure) == (b.tokens, b.written, b.failure)
    assert (a.slot, a.same_slot) == (b.slot, b.same_slot)
    assert a.cost_usd == pytest.approx(b.cost_usd, abs=1e-12)
    assert a.position_gap == pytest.approx(b.position_gap, abs=1e-12)
    assert a.off_option_mass == pytest.approx(b.off_option_mass, abs=1e-12)
    if one.p_first is None:
        assert other.p_first is None
        return
    assert one.p_first + other.p_first == pytest.approx(1.0, abs=1e-12)
    assert (a.margin is None) == (b.margin is None)
    if a.margin is not None:
        assert a.margin == pytest.approx(-b.margin, abs=1e-12)
    if first.strip() == second.strip() and prompt:
        assert one.p_first == 0.5


@pytest.mark.parametrize("way", EVERY)
def test_every_strategy_keeps_order_and_identity(hashed, pair, way):
    pairs = [replace(pair, prompt=f"post {n}", group=str(n), weight=n) for n in range(3)]
    labeler = EVERY[way](hashed(write=lambda _: " the first one."))
    judged = labeler.label(pairs)
    assert [(row.prompt, row.group, row.weight) for row in judged] == [
        (row.prompt, row.group, row.weight) for row in pairs
    ]
    assert {row.provenance.strategy for row in judged} == {labeler.strategy}
    assert {row.provenance.prompt_version for row in judged} == {labeler.prompt_version}
    assert all(row.source == "ai" and 0 <= row.p_first <= 1 for row in judged)
    assert isinstance(labeler, Labeler)
    assert isinstance(labeler, PointwiseLabeler) == (labeler.strategy in ("score", "likelihood"))


def test_every_setting_makes_a_fingerprint_of_its_own(hashed):
    prints = {EVERY[way](hashed()).fingerprint for way in EVERY}
    assert len(prints) == len(EVERY)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "ensemble that skips"])
def test_a_question_that_is_too_long_fails_whole(hashed, pair, way):
    long = replace(pair, first="long " * 5000)
    backend = hashed(limit=20000, write=lambda _: " the first one.")
    judged = WAYS[way](backend).label([long, pair])
    assert [row.provenance.failure for row in judged] == ["too_long", None]
    assert judged[0].p_first is None
    asked = [call.question.text for call in backend.asked if "long long" in call.question.text]
    assert asked
    assert all(text.count("long ") >= 4999 for text in asked)  # passed on whole, never cut


@pytest.mark.parametrize("way", WAYS)
def test_no_prompt_ends_in_a_space_and_no_text_is_lost(hashed, pair, way):
    odd = replace(pair, prompt="{first} {x}", first="{second}\\1", second="{prompt} }{")
    backend = hashed(write=lambda _: " the first one. ")
    WAYS[way](backend).label([odd])
    assert backend.asked
    for call in backend.asked:
        asked = call.question.text + call.question.assistant_prefix
        assert asked == asked.rstrip()
        assert "{first} {x}" in asked
        assert "{second}\\1" in asked or "{prompt} }{" in asked
        if not isinstance(call, GenerateRequest):
            assert len(set(call.options)) == len(call.options)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_labeler_can_be_sent_to_another_process(way):
    labeler = way(SimpleNamespace(fingerprint="m"))
    sent = pickle.loads(pickle.dumps(labeler))
    assert (sent.prompt_version, sent.fingerprint) == (labeler.prompt_version, labeler.fingerprint)
