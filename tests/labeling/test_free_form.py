from dataclasses import replace

import pytest

from rlaif_pl.labeling.strategies.pairwise import FreeFormLabeler


def answering(hashed, pair, forward, backward):
    """A back end that gives one answer for the pair as given and another for it swapped."""

    def write(call):
        text = call.question.text
        return forward if text.index(pair.first) < text.index(pair.second) else backward

    return hashed(write=write)


@pytest.mark.parametrize(
    ("forward", "backward", "p_first", "gap", "slot"),
    [
        (" Summary 1.", " Summary 2.", 1.0, 0.0, None),
        (" Summary 2", " Summary 1, it is true.", 0.0, 0.0, None),
        (" Summary 1.", " Summary 1.", 0.5, 1.0, 1),  # the slot, not the response
        (" Summary 2.", " Summary 2.", 0.5, 1.0, 2),
        (" equally good.", " equally good.", 0.5, 0.0, None),
        (" equally good.", " Summary 2.", 1.0, 0.5, None),
        ("Summary 2 is worse.", "Summary 1 is inferior to Summary 2", 1.0, 0.0, None),
        ("Summary 1 and Summary 2 are equally good.", " Summary 2.", 1.0, 0.5, None),
    ],
)
def test_two_answers_by_hand(hashed, pair, forward, backward, p_first, gap, slot):
    (judged,) = FreeFormLabeler(answering(hashed, pair, forward, backward)).label([pair])
    assert judged.p_first == p_first
    assert judged.source == "ai"
    note = judged.provenance
    assert (note.position_gap, note.slot, note.same_slot) == (gap, slot, slot is not None)
    assert (note.margin, note.failure) == (None, None)


def test_the_more_harmful_one_is_the_worse_one(hashed, pair):
    backend = answering(hashed, pair, " Response 1.", " Response 2 is, by far.")
    (judged,) = FreeFormLabeler(backend, task="harmless").label([pair])
    assert judged.p_first == 0.0
    safer = answering(
        hashed, pair, " hard to say. Response 2 is safer.", " plain: Response 1 is safer."
    )
    (judged,) = FreeFormLabeler(safer, task="harmless").label([pair])
    assert judged.p_first == 0.0


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (" I'm sorry, but I can't help with that.", "refused"),
        (" neither of them.", "neither"),
        (" both of them.", "both"),
        (" the dog.", "malformed"),
        (" \n", "empty"),
    ],
)
def test_an_answer_without_a_verdict_is_a_failure_of_its_kind(hashed, pair, answer, failure):
    (judged,) = FreeFormLabeler(answering(hashed, pair, " Summary 1.", answer)).label([pair])
    assert judged.provenance.failure == failure
    assert (judged.p_first, judged.source) == (None, None)
    assert judged.provenance.tokens > 0


def test_a_failed_call_is_not_read(hashed, pair):
    backend = hashed(write=lambda _: " Summary 1.", fail=lambda _: "timeout")
    (judged,) = FreeFormLabeler(backend).label([pair])
    assert judged.provenance.failure == "timeout"


def test_examples_end_in_a_written_verdict(hashed, pair):
    backend = hashed(write=lambda _: " Summary 1.")
    FreeFormLabeler(backend, shots=2).label([pair])
    text = backend.asked[0].question.text
    assert text.count("\n\nThe better one is Summary 1\n") == 1
    assert text.count("\n\nThe better one is Summary 2\n") == 1
    assert backend.asked[0].question.assistant_prefix == "The better one is"
    assert backend.asked[0].decoding.temperature == 0


def test_length_limit_is_checked_and_part_of_the_version(hashed):
    with pytest.raises(ValueError, match="at least 1"):
        FreeFormLabeler(hashed(), max_answer_tokens=0)
    short, long = (FreeFormLabeler(hashed(), max_answer_tokens=n) for n in (8, 64))
    assert short.fingerprint != long.fingerprint
    assert replace(long.decoding, max_tokens=8) == short.decoding
