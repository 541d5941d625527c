"""A labeler as reward: scale and shift by hand, replies kept over a kill, cost counted."""

import pytest
import torch

from rlaif_pl.labeling.calls import Response
from rlaif_pl.labeling.reward import LabelerReward
from rlaif_pl.labeling.strategies.scoring import ScoreLabeler
from rlaif_pl.labeling.usage.spending import OutOfBudget


class Grader:
    """Gives a text with a word all its probability on one grade; 0.01 USD and 7 tokens a call."""

    fingerprint = "grader"

    def __init__(self, **grades):
        self.grades = grades
        self.batches = []

    def answer(self, calls, done):
        self.batches.append(len(calls))
        for place, call in enumerate(calls):
            (grade,) = [grade for word, grade in self.grades.items() if word in call.question.text]
            logs = tuple(0.0 if n == grade else -80.0 for n in range(1, 11))
            done(place, Response(logprobs=logs, read=6, written=1, cost_usd=0.01))


def test_scale_shift_and_empty_by_hand():
    grader = Grader(alpha=10, beta=1)
    reward = LabelerReward(ScoreLabeler(grader), scale=4.0, shift=0.25, empty=-7.0)
    # grade 10 is score 1, grade 1 is score -1: 4 (1 - .25) = 3, 4 (-1 - .25) = -5
    scores = reward.score(["p"] * 4, ["alpha", " ", "beta", ""])
    torch.testing.assert_close(scores, torch.tensor([3.0, -7.0, -5.0, -7.0]))
    assert grader.batches == [2]  # one batch, without those that have no text
    assert reward.score(["p"], [" "]).tolist() == [-7.0]
    assert reward.score([], []).shape == (0,)


def test_no_text_is_asked_for_twice_and_all_calls_count():
    grader = Grader(alpha=10, beta=1)
    reward = LabelerReward(ScoreLabeler(grader))
    reward.score(["p", "p"], ["alpha", "beta"])
    reward.score(["p", "q"], ["alpha", "alpha"])
    assert grader.batches == [2, 1]
    metrics = reward.to_metrics("r")
    assert metrics["r/run_responses"] == 4
    assert metrics["r/run_calls"] == 3
    assert metrics["r/run_read_tokens"] + metrics["r/run_written_tokens"] == 21
    assert metrics["r/run_cost_usd"] == pytest.approx(0.03)


def test_replies_outlive_the_process(tmp_path):
    file = str(tmp_path / "replies.sqlite")
    LabelerReward(ScoreLabeler(Grader(alpha=10)), replies=file).score(["p"], ["alpha"])
    grader = Grader(alpha=10, beta=1)
    reward = LabelerReward(ScoreLabeler(grader), replies=file)
    assert reward.score(["p", "p"], ["alpha", "beta"]).tolist() == [1.0, -1.0]
    assert grader.batches == [1]
    metrics = reward.to_metrics("r")
    assert (metrics["r/run_calls"], metrics["r/calls"]) == (1, 2)
    assert metrics["r/paid_usd"] == pytest.approx(0.02)


def test_a_limit_stops_and_keeps_what_was_paid(tmp_path):
    file = str(tmp_path / "replies.sqlite")
    reward = LabelerReward(ScoreLabeler(Grader(a=10)), replies=file, max_cost=0.02)
    with pytest.raises(OutOfBudget):
        reward.score(["p"] * 4, ["a1", "a2", "a3", "a4"])
    assert reward.to_metrics("r")["r/calls"] == 2


def test_what_changes_a_reward_is_in_its_fingerprint():
    names = {
        LabelerReward(ScoreLabeler(Grader()), **options).fingerprint
        for options in ({}, {"scale": 2.0}, {"shift": 1.0}, {"empty": 0.0})
    }
    assert len(names) == 4


class Silent:
    """A pointwise labeler that keeps no replies."""

    fingerprint = "silent"

    def label(self, pairs):
        return list(pairs)

    def score(self, prompts, responses):  # noqa: ARG002
        return [1.0 for _ in responses]


def test_settings_that_do_not_fit_are_refused():
    assert LabelerReward(Silent(), scale=3.0).score(["p"], ["x"]).tolist() == [3.0]
    with pytest.raises(ValueError, match="leave replies and max_cost out"):
        LabelerReward(Silent(), max_cost=1.0)
    with pytest.raises(ValueError, match="finite scale above 0"):
        LabelerReward(Silent(), scale=0.0)
