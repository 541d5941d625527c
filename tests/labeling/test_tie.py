"""A third verdict: half of its probability for each side, and how much it was."""

import math

import pytest

from rlaif_pl.labeling.calls import Response
from rlaif_pl.labeling.strategies.pairwise import PairwiseLabeler
from rlaif_pl.labeling.usage.summary import summarize_labels


class Undecided:
    """Gives slot 1 a third and a tie a half of what it gives to all three."""

    fingerprint = "undecided"

    def __init__(self):
        self.calls = []

    def answer(self, calls, done):
        for place, call in enumerate(calls):
            self.calls.append(call)
            text = call.question.text
            is_first = text.index("Rain all day.") < text.index("It was dry.")
            shares = (2 / 6, 1 / 6) if is_first else (1 / 6, 2 / 6)
            logs = tuple(math.log(each * 0.8) for each in (*shares, 0.5)[: len(call.options)])
            done(place, Response(logprobs=logs, read=5))


def test_a_tie_is_split_and_reported(pair):
    backend = Undecided()
    (label,) = PairwiseLabeler(backend, tie=True).label([pair])
    assert backend.calls[0].options == ("1", "2", "0")
    assert "no difference between the two, the answer is 0" in backend.calls[0].question.text
    # a third and half of a half
    assert label.p_first == pytest.approx(1 / 3 + 1 / 4)
    assert label.provenance.tie_mass == pytest.approx(0.5)
    assert label.provenance.off_option_mass == pytest.approx(0.2)
    assert summarize_labels([label]).to_metrics()["label/tie_mass"] == pytest.approx(0.5)


def test_without_ties_nothing_changes(pair):
    backend = Undecided()
    plain = PairwiseLabeler(backend)
    (label,) = plain.label([pair])
    assert backend.calls[0].options == ("1", "2")
    assert "no difference" not in backend.calls[0].question.text
    assert label.p_first == pytest.approx(2 / 3)
    assert label.provenance.tie_mass is None
    assert "label/tie_mass" not in summarize_labels([label]).to_metrics()
    assert plain.prompt_version != PairwiseLabeler(backend, tie=True).prompt_version
