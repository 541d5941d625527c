import math

import pytest
import torch
from scipy.special import expit

from rlaif_pl.labeling.calls import Response
from rlaif_pl.labeling.reward import LabelerReward
from rlaif_pl.labeling.strategies.scoring import ScoreLabeler
from rlaif_pl.types import PointwiseLabeler, Reward


class Grader:
    """Gives texts that contain a word a distribution over the ten grades."""

    fingerprint = "grader"

    def __init__(self, grades):
        self.grades = grades
        self.asked = []

    def answer(self, calls, done):
        for place, call in enumerate(calls):
            self.asked.append(call)
            (reply,) = [reply for word, reply in self.grades.items() if word in call.question.text]
            done(place, reply)


def graded(**shares):
    """Probabilities by grade (``g10=.5``), the rest next to nothing."""
    table = [shares.get(f"g{grade}", 0.0) for grade in range(1, 11)]
    return Response(logprobs=tuple(math.log(p) if p else -80.0 for p in table), read=10)


GRADES = {
    # .6 of .8 for 10 and .2 of .8 for 1: expected grade 7.75, (7.75 - 5.5) / 4.5 = .5.
    "alpha": graded(g10=0.6, g1=0.2),
    # All for 4 and 7 alike: 5.5, so 0.
    "beta": graded(g4=0.5, g7=0.5),
    "gamma": Response(failure="too_long", read=99),
    "delta": Response(logprobs=(-1.0,) * 9 + (None,), read=10),
    "omega": Response(logprobs=(-1.0,) * 9 + (math.nan,), read=10),
}


def test_scores_by_hand():
    labeler = ScoreLabeler(Grader(GRADES))
    scores = labeler.details(["p"] * 5, ["alpha", "beta", "gamma", "delta", "omega"])
    assert [score.margin for score in scores[:2]] == pytest.approx([0.5, 0.0])
    assert scores[0].off_option_mass == pytest.approx(0.2)
    assert [score.failure for score in scores] == [
        *(None, None),
        "too_long",
        "missing_logprob",  # one grade of ten is not invented
        "nonfinite",
    ]
    assert all(math.isnan(score.margin) for score in scores[2:])
    assert isinstance(labeler, PointwiseLabeler)


def test_written_tokens_are_counted_apart_from_those_read(pair):
    table = graded(g5=1.0).logprobs
    backend = Grader({
        pair.first: Response(logprobs=table, read=10, written=1),
        pair.second: Response(logprobs=table, read=12, written=2),
    })  # fmt: skip
    (judged,) = ScoreLabeler(backend).label([pair])
    assert (judged.provenance.tokens, judged.provenance.written) == (25, 3)


@pytest.mark.parametrize(("grade", "score"), [(1, -1.0), (10, 1.0), (6, 0.5 / 4.5)])
def test_grades_map_to_minus_one_to_one(grade, score):
    labeler = ScoreLabeler(Grader({"x": graded(**{f"g{grade}": 1.0})}))
    assert labeler.score(["p"], ["x"]) == pytest.approx([score])


def test_whole_grades_are_asked_for_so_that_10_is_not_1(hashed):
    backend = hashed()
    ScoreLabeler(backend).score(["p"], ["r"])
    (call,) = backend.asked
    assert call.options == tuple(f" {grade}" for grade in range(1, 11))
    assert call.question.text.endswith("\n\nTEXT: p\n\nSUMMARY: r\n\n")
    assert call.question.assistant_prefix == "SCORE:"


def test_a_pair_is_labeled_by_the_difference(pair):
    from_scores = ScoreLabeler(Grader({"Rain all day": GRADES["alpha"], "dry": GRADES["beta"]}))
    (judged,) = from_scores.label([pair])
    assert judged.provenance.margin == pytest.approx(0.5)
    assert judged.p_first == pytest.approx(expit(0.5 / 0.25))
    note = judged.provenance
    assert (note.position_gap, note.slot, note.same_slot) == (None, None, None)  # there is no order
    assert note.off_option_mass == pytest.approx(0.1)
    assert note.tokens == 20


def test_harmless_grades_are_not_turned_around(hashed):
    text = "\n".join(ScoreLabeler(hashed(), task="harmless").file.parts.values())
    assert "10 could do no harm" in text
    assert ScoreLabeler(hashed(), task="harmless").grades == ScoreLabeler(hashed()).grades


def test_ones_own_scale_may_ask_for_the_worse(hashed, tmp_path):
    path = tmp_path / "scale.txt"
    path.write_text(
        'asks: worse\noptions: [" low", " mid", " high"]\n--- sample\n{prompt}\n{response}\n'
        "--- ending\nHarm:"
    )
    assert ScoreLabeler(hashed(), prompt=str(path)).grades == [1.0, 0.0, -1.0]


def test_a_pairwise_prompt_is_refused(hashed):
    with pytest.raises(ValueError, match="response"):
        ScoreLabeler(hashed(), prompt="summarization-base-1")


def test_a_labeler_is_a_reward():
    reward = LabelerReward(ScoreLabeler(Grader(GRADES)))
    assert isinstance(reward, Reward)
    scores = reward.score(["p", "p"], ["alpha", "beta"])
    torch.testing.assert_close(scores, torch.tensor([0.5, 0.0]))
    assert scores.dtype == torch.float32
    assert reward.score([], []).shape == (0,)
    assert "grader" in reward.fingerprint


def test_a_reward_that_cannot_be_had_is_not_made_up():
    reward = LabelerReward(ScoreLabeler(Grader(GRADES)))
    with pytest.raises(ValueError, match=r"each of 3 responses, got none for 2 \(.*: 1"):
        reward.score(["p"] * 3, ["alpha", "gamma", "delta"])
    with pytest.raises(ValueError, match="ScoreLabeler"):
        LabelerReward(object())


@pytest.mark.parametrize("kind", [lambda labeler: labeler, LabelerReward])
def test_a_response_is_scored_for_each_prompt(kind):
    with pytest.raises(ValueError, match="got 1 prompts and 2 responses; repeat a prompt"):
        kind(ScoreLabeler(Grader(GRADES))).score(["p"], ["alpha", "beta"])
