import math
from dataclasses import replace

import pytest
from scipy.special import expit

from rlaif_pl.labeling.calls import Backend, ChoiceRequest, GenerateRequest, Response
from rlaif_pl.labeling.outcome import VerdictOptions
from rlaif_pl.labeling.prompting.verdicts import ChainOfThought
from rlaif_pl.labeling.strategies.pairwise import ConstitutionLabeler, PairwiseLabeler
from rlaif_pl.labeling.strategies.rubric import RubricLabeler
from rlaif_pl.labeling.strategies.scoring import ScoreLabeler
from rlaif_pl.types import Labeler, Preference

PAIR = Preference("It rained all day.", "Rain all day.", "It was dry.", "g")


def chosen(backend):
    return [call for call in backend.asked if isinstance(call, ChoiceRequest)]


def generated(backend):
    return [call for call in backend.asked if isinstance(call, GenerateRequest)]


def test_labels_by_hand():
    # Slot 1 named with .6 of .8 as given, with .1 of .4 when swapped: (.75 + .75) / 2 = .75.
    class Fixed:
        fingerprint = "fixed"

        def answer(self, calls, done):
            for place, call in enumerate(calls):
                given = call.question.text.index("Rain all") < call.question.text.index(
                    "It was dry"
                )
                one, two = (0.6, 0.2) if given else (0.1, 0.3)
                done(place, Response(logprobs=(math.log(one), math.log(two)), read=10))

    assert isinstance(Fixed(), Backend)
    (judged,) = PairwiseLabeler(Fixed()).label([PAIR])
    assert judged.p_first == pytest.approx(0.75)
    assert judged.provenance.off_option_mass == pytest.approx((0.2 + 0.6) / 2)
    assert judged.provenance.position_gap == pytest.approx(0.0, abs=1e-12)
    assert (judged.provenance.slot, judged.provenance.same_slot) == (None, False)
    assert judged.provenance.tokens == 20
    (judged,) = PairwiseLabeler(Fixed(), task="harmless").label([PAIR])
    assert judged.p_first == pytest.approx(0.25)  # the one named is the more harmful one
    (judged,) = PairwiseLabeler(Fixed(), verdict=VerdictOptions(hard=True)).label([PAIR])
    assert judged.p_first == 1.0
    assert judged.provenance.margin == pytest.approx(math.log(3))
    (judged,) = PairwiseLabeler(Fixed(), verdict=VerdictOptions(clamp=(0.4, 0.6))).label([PAIR])
    assert judged.p_first == 0.6
    (judged,) = PairwiseLabeler(Fixed(), temperature=4.0).label([PAIR])
    assert judged.p_first == pytest.approx(expit(math.log(3) / 4))


def test_zero_shot_asks_one_question_an_order(hashed):
    backend = hashed()
    PairwiseLabeler(backend, preamble="base").label([PAIR])
    texts = [call.question.text + call.question.assistant_prefix for call in backend.asked]
    assert len(texts) == 2
    assert all(call.options == ("1", "2") for call in backend.asked)
    ending = "\n\nText - It rained all day.\nSummary 1 - {}\nSummary 2 - {}\n\nPreferred Summary="
    assert any(text.endswith(ending.format(PAIR.first, PAIR.second)) for text in texts)
    assert any(text.endswith(ending.format(PAIR.second, PAIR.first)) for text in texts)
    assert all("the better one.\n\nText - " in text for text in texts)


def test_chain_of_thought_asks_twice_an_order_and_reads_its_own_rationale(hashed):
    backend = hashed(write=lambda call: f" Thought {len(call.question.text)}.\n")
    PairwiseLabeler(backend, cot=True).label([PAIR])
    assert (len(generated(backend)), len(chosen(backend))) == (2, 2)
    before = {c.question.text + c.question.assistant_prefix for c in generated(backend)}
    for call in chosen(backend):
        whole = call.question.text + call.question.assistant_prefix
        (begun,) = [text for text in before if whole.startswith(text)]
        said = f" Thought {len(call.question.text)}.\n\nPreferred Summary="
        assert whole == begun + said
        assert begun.endswith("\n\nRationale:")
        assert "Explain which summary" in begun
        assert "Answer 1 or 2" not in begun


def test_few_shot_chain_of_thought_opens_like_its_examples(hashed):
    backend = hashed()
    PairwiseLabeler(backend, cot=True, shots=2).label([PAIR])
    for call in generated(backend):
        assert call.question.assistant_prefix == "Thoughts on Summary 1 -"
        assert call.question.text.count("Thoughts on Summary 1 - Coherence:") == 2
        assert call.question.text.count("»»» Example »»»") == 2
        assert "Preferred Summary=" in call.decoding.stop


def test_in_a_chat_the_opening_begins_the_answer(hashed):
    backend = hashed()
    PairwiseLabeler(backend, cot=True, chat_template=True).label([PAIR])
    assert all(call.question.chat for call in backend.asked)
    for call in generated(backend):
        assert call.question.assistant_prefix == "Rationale:"
        assert call.question.text.endswith("explain which of the two is better.")
    for call in chosen(backend):
        assert call.question.assistant_prefix.startswith("Rationale: The one is ")
        assert call.question.assistant_prefix.endswith("\n\nPreferred Summary=")


def test_self_consistency_draws_different_rationales_and_averages_them(hashed):
    backend = hashed()
    options = {"cot": ChainOfThought(samples=4, temperature=0.7, top_k=40, seed=3)}
    (judged,) = PairwiseLabeler(backend, **options).label([PAIR])
    drawn = generated(backend)
    assert sorted(call.sample for call in drawn) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {(c.decoding.temperature, c.decoding.top_k, c.decoding.seed) for c in drawn} == {
        (0.7, 40, 3)
    }
    means = []
    for first_in_slot_1 in (True, False):
        shares = []
        for call in chosen(backend):
            text = call.question.text
            if (text.index(PAIR.first) < text.index(PAIR.second)) == first_in_slot_1:
                one, two = backend._reply(call).logprobs
                shares.append(expit(one - two if first_in_slot_1 else two - one))
        assert len(shares) == 4
        means.append(sum(shares) / 4)
    assert judged.p_first == pytest.approx(sum(means) / 2, abs=1e-12)
    assert judged.provenance.position_gap == pytest.approx(abs(means[0] - means[1]), abs=1e-12)


def test_failures_are_told_apart_and_spare_the_others(hashed):
    long = replace(PAIR, first="x" * 5000)
    backend = hashed(limit=4000, fail=lambda c: "http_500" if "WINDY" in c.question.text else None)
    judged = PairwiseLabeler(backend).label([long, PAIR, replace(PAIR, prompt="WINDY")])
    assert [row.provenance.failure for row in judged] == ["too_long", None, "http_500"]
    assert [row.p_first is None for row in judged] == [True, False, True]
    assert judged[0].source is None
    assert judged[0].provenance.tokens > 10000  # the question was passed on whole
    assert all("x" * 5000 in c.question.text for c in backend.asked if "xx" in c.question.text)


def test_an_empty_rationale_is_a_failure(hashed):
    judged = PairwiseLabeler(hashed(write=lambda _: " \n"), cot=True).label([PAIR])
    assert judged[0].provenance.failure == "empty_rationale"


def test_asking_for_the_worse_inverts_the_label(hashed, tmp_path):
    prompts = {}
    for asks in ("better", "worse"):
        path = tmp_path / f"{asks}.txt"
        path.write_text(f"asks: {asks}\n---\nT {{prompt}}\n1 {{first}}\n2 {{second}}\n\nIt is ")
        prompts[asks] = PairwiseLabeler(hashed(), prompt=str(path)).label([PAIR])[0]
    assert prompts["better"].p_first + prompts["worse"].p_first == pytest.approx(1.0, abs=1e-12)
    assert prompts["better"].p_first != pytest.approx(0.5, abs=1e-3)


def test_settings_are_in_the_fingerprint(hashed):
    options = [{}, {"preamble": "base"}, {"task": "helpful"}, {"shots": 1}, {"shots": 2}]
    options += [{"cot": True}, {"cot": True, "shots": 1}, {"cot": ChainOfThought(max_tokens=9)}]
    drawn = [{}, {"samples": 2}, {"seed": 1}, {"top_k": 4}]
    options += [{"cot": ChainOfThought(temperature=0.5, **each)} for each in drawn]
    read = [{"hard": True}, {"clamp": (0.4, 0.6)}, {"clamp": (0.2, 0.8)}, {"min_option_mass": 0.1}]
    options += [{"verdict": VerdictOptions(**each)} for each in read]
    options += [{"chat_template": True}, {"temperature": 2.0}]
    labelers = [PairwiseLabeler(hashed(), **each) for each in options]
    assert len({labeler.fingerprint for labeler in labelers}) == len(options)
    assert isinstance(labelers[0], Labeler)


def test_what_has_no_effect_does_not_change_the_fingerprint(hashed):
    plain, seeded = (
        PairwiseLabeler(hashed(), cot=ChainOfThought(seed=seed, top_k=seed)) for seed in (0, 5)
    )
    assert PairwiseLabeler(hashed(), cot=True).fingerprint == plain.fingerprint
    assert plain.fingerprint == seeded.fingerprint


@pytest.mark.parametrize("clamp", [(0.3, 0.6), (0.6, 0.4)])
def test_limits_that_favor_a_side_are_refused(clamp):
    with pytest.raises(ValueError, match=r"\(x, 1 - x\)"):
        VerdictOptions(clamp=clamp)


def test_the_default_reading_is_named_in_no_version(hashed):
    plain = PairwiseLabeler(hashed())
    assert plain.prompt_version == "summarization-detailed-1"
    free = PairwiseLabeler(hashed(), verdict=VerdictOptions(clamp=None))
    assert free.fingerprint == plain.fingerprint
    clamped = PairwiseLabeler(hashed(), verdict=VerdictOptions(hard=True, clamp=(0.4, 0.6)))
    assert clamped.prompt_version == "summarization-detailed-1+hard+clamp=0.4:0.6"
    assert plain.fingerprint.endswith(";temperature=1.0;min_option_mass=0.005")


@pytest.mark.parametrize(
    "kind", [PairwiseLabeler, ConstitutionLabeler, ScoreLabeler, RubricLabeler]
)
def test_a_setting_that_is_changed_later_changes_the_version(hashed, kind):
    changed, built = kind(hashed()), kind(hashed(), verdict=VerdictOptions(hard=True))
    before = changed.fingerprint  # else a store would take hard labels for soft ones
    changed.hard = True
    assert changed.fingerprint == built.fingerprint != before
    (label,) = changed.label([PAIR])
    assert label.provenance.prompt_version == built.prompt_version


def test_the_version_names_every_part(hashed):
    way = {"shots": 2, "cot": ChainOfThought(samples=16, temperature=1.0, top_k=40)}
    assert PairwiseLabeler(hashed(), **way).prompt_version == (
        "summarization-detailed-1+shots=2:exemplars-summarization-1+cot=few_shot"
        "+n=16,T=1.0,k=40,seed=0,max=512"
    )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"shots": 9}, "from 0 to 8"),
        ({"shots": -1}, "from 0 to 8"),
        ({"task": "helpful", "shots": 3}, "from 0 to 2"),
        ({"temperature": 0.0}, "above 0"),
    ],
)
def test_contradictory_settings_are_refused(hashed, options, match):
    with pytest.raises(ValueError, match=match):
        PairwiseLabeler(hashed(), **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"samples": 4}, "all the same"),
        ({"samples": 0}, "at least 1"),
        ({"max_tokens": 0}, "at least 1"),
        ({"temperature": -1.0}, "at least 0"),
    ],
)
def test_rationales_that_cannot_be_drawn_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        ChainOfThought(**options)
