import math
from collections import Counter
from dataclasses import replace

import pytest

from rlaif_pl.labeling.calls import ChoiceRequest, Response
from rlaif_pl.labeling.outcome import VerdictOptions
from rlaif_pl.labeling.prompting.layout import load_exemplars
from rlaif_pl.labeling.strategies.pairwise import ConstitutionLabeler, load_principles


def test_there_are_sixteen_different_questions_for_less_harm():
    principles, version = load_principles("principles-1")
    assert version == "principles-1"
    assert len(set(principles)) == 16
    assert all(each.startswith("Which response ") and each.endswith("?") for each in principles)


def test_a_principle_is_drawn_by_the_texts_but_not_by_their_order(hashed):
    labeler = ConstitutionLabeler(hashed())
    for n in range(20):
        texts = (f"prompt {n}", f"one {n}", f"two {n}")
        assert labeler.principle(*texts) == labeler.principle(texts[0], texts[2], texts[1])
    drawn = Counter(labeler.principle(f"prompt {n}", "a", "b") for n in range(1600))
    assert len(drawn) == 16
    # 100 each on average; a fair draw strays 5 standard deviations (9.7 each) in one of 10^5 runs.
    assert all(51 < count < 149 for count in drawn.values())


def test_the_seed_draws_anew(hashed, pair):
    drawn = set()
    for seed in range(12):
        labeler = ConstitutionLabeler(hashed(), seed=seed)
        drawn.add(labeler.principle(pair.prompt, pair.first, pair.second))
    assert len(drawn) > 3


def test_both_orders_read_the_same_principle_and_name_a_letter(hashed, pair):
    backend = hashed()
    labeler = ConstitutionLabeler(backend)
    labeler.label([pair])
    principle = labeler.principle(pair.prompt, pair.first, pair.second)
    assert len(backend.asked) == 2
    for call in backend.asked:
        assert call.options == (" (A)", " (B)")
        assert call.question.text.count(principle) == 1
        assert call.question.assistant_prefix == "The answer is:"
    bodies = {call.question.text.split("Options:\n")[1] for call in backend.asked}
    one, other = pair.first, pair.second
    assert bodies == {f"(A) {one}\n(B) {other}\n\n", f"(A) {other}\n(B) {one}\n\n"}


def test_the_answer_names_the_less_harmful_response(pair):
    class Likes:
        fingerprint = "likes the first"

        def answer(self, calls, done):
            for place, call in enumerate(calls):
                text = call.question.text
                ahead = text.index("Rain all") < text.index("It was dry")
                logs = (math.log(0.9), math.log(0.1))
                done(place, Response(logprobs=logs if ahead else logs[::-1]))

    (judged,) = ConstitutionLabeler(Likes()).label([pair])
    assert judged.p_first == pytest.approx(0.9)


def test_examples_have_principles_of_their_own_and_the_harmless_answer(hashed, pair):
    backend = hashed()
    labeler = ConstitutionLabeler(backend, shots=2)
    labeler.label([pair])
    shown = backend.asked[0].question.text.split("»»» Example »»»")[1:]
    assert len(shown) == 2
    file = load_exemplars("exemplars-harmless-1", 2, thoughts=False)
    for text, each in zip(shown, file.exemplars, strict=True):
        assert labeler.principle(each.prompt, each.first, each.second) in text
        assert f"The answer is: ({' AB'[each.better]})" in text


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ({"cot": True}, (0.4, 0.6)),
        ({"cot": True, "verdict": VerdictOptions(clamp=(0.2, 0.8))}, (0.2, 0.8)),
        ({"cot": True, "verdict": VerdictOptions(clamp=None)}, (0.0, 1.0)),
        ({}, (0.0, 1.0)),
        ({"verdict": VerdictOptions(clamp=(0.4, 0.6))}, (0.4, 0.6)),
    ],
)
def test_labels_after_chain_of_thought_are_clamped(hashed, pair, options, limits):
    labeler = ConstitutionLabeler(hashed(), temperature=0.05, **options)  # near 0 or 1 if free
    pairs = [replace(pair, prompt=f"post {n}") for n in range(20)]
    labels = [row.p_first for row in labeler.label(pairs)]
    assert min(labels) == pytest.approx(limits[0], abs=0.05)
    assert max(labels) == pytest.approx(limits[1], abs=0.05)
    assert all(limits[0] <= p <= limits[1] for p in labels)


def test_chain_of_thought_goes_step_by_step(hashed, pair):
    backend = hashed()
    ConstitutionLabeler(backend, cot=True).label([pair])
    chosen = [call for call in backend.asked if isinstance(call, ChoiceRequest)]
    assert len(backend.asked) == 4
    for call in chosen:
        assistant_prefix = call.question.assistant_prefix
        assert assistant_prefix.startswith("Let us think about it step by step: The one is ")
        assert assistant_prefix.endswith("\n\nThe answer is:")


def test_settings_are_in_the_fingerprint(hashed, tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text("- Which is kinder?\n")
    options = [{}, {"seed": 1}, {"principles": str(own)}, {"cot": True}, {"shots": 1}]
    options += [{"cot": True, "verdict": VerdictOptions(clamp=None)}]
    options += [{"verdict": VerdictOptions(hard=True)}]
    prints = {ConstitutionLabeler(hashed(), **each).fingerprint for each in options}
    assert len(prints) == len(options)


@pytest.mark.parametrize("content", ["", "a: b", "[1, 2]", "[same, same]", "['']"])
def test_malformed_principles_are_refused(tmp_path, content):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match="different questions"):
        load_principles(str(path))
