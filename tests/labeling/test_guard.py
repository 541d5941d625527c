"""Verdicts without probability are no labels: counted, said, and the threshold is a setting."""

import math
import warnings

import pytest

from rlaif_pl.labeling.calls import GenerateRequest, Response
from rlaif_pl.labeling.outcome import MIN_OPTION_MASS, VerdictOptions, is_unlikely
from rlaif_pl.labeling.prompting.verdicts import ChainOfThought
from rlaif_pl.labeling.reward import LabelerReward
from rlaif_pl.labeling.strategies.pairwise import ConstitutionLabeler, PairwiseLabeler
from rlaif_pl.labeling.strategies.scoring import ScoreLabeler
from rlaif_pl.labeling.usage.summary import summarize_labels


class Fixed:
    """Gives every option the same probability, so that all together have ``mass``."""

    fingerprint = "fixed"

    def __init__(self, *masses):
        self.masses = masses

    def answer(self, calls, done):
        for place, call in enumerate(calls):
            if isinstance(call, GenerateRequest):
                done(place, Response(text=f"Since it is sample {call.sample}.", read=1, written=1))
                continue
            mass = self.masses[place % len(self.masses)]
            done(
                place, Response(logprobs=(math.log(mass / len(call.options)),) * len(call.options))
            )


WAYS = {
    "pairwise": PairwiseLabeler,
    "few-shot": lambda b, **o: PairwiseLabeler(b, shots=2, **o),
    "rationales": lambda b, **o: PairwiseLabeler(
        b, cot=ChainOfThought(samples=3, temperature=1.0), **o
    ),
    "chat": lambda b, **o: PairwiseLabeler(b, chat_template=True, **o),
    "score": ScoreLabeler,
    "constitution": ConstitutionLabeler,
}


@pytest.mark.parametrize("way", WAYS)
def test_an_unlikely_verdict_is_no_label_for_any_strategy(way, pair):
    with pytest.warns(
        UserWarning, match=r"low_option_mass.*99\.8[78]% .* outside the verdict tokens"
    ):
        (judged,) = WAYS[way](Fixed(0.0012)).label([pair])
    assert (judged.p_first, judged.provenance.failure) == (None, "low_option_mass")
    assert judged.provenance.off_option_mass == pytest.approx(0.9988)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (kept,) = WAYS[way](Fixed(0.0012), verdict=VerdictOptions(min_option_mass=0.001)).label(
            [pair]
        )
        (likely,) = WAYS[way](Fixed(2 * MIN_OPTION_MASS)).label([pair])
    assert kept.p_first == likely.p_first == pytest.approx(0.5)
    assert kept.provenance.off_option_mass == pytest.approx(0.9988)


def test_one_unlikely_order_leaves_the_pair_unlabeled(pair):
    with pytest.warns(UserWarning, match="a choice between '1', '2' is no answer"):
        (judged,) = PairwiseLabeler(Fixed(0.9, 0.001)).label([pair])
    assert judged.provenance.failure == "low_option_mass"
    assert judged.provenance.off_option_mass == pytest.approx((0.1 + 0.999) / 2)


def test_the_threshold_is_part_of_a_labelers_identity_and_is_checked():
    options = [VerdictOptions(min_option_mass=least) for least in (0.0, 0.005, 0.1)]
    prints = {PairwiseLabeler(Fixed(1), verdict=each).fingerprint for each in options}
    assert len(prints) == 3
    assert PairwiseLabeler(Fixed(1)).fingerprint in prints
    for wrong in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="min_option_mass"):
            VerdictOptions(min_option_mass=wrong)


def test_what_is_not_reported_is_a_failure_of_another_kind():
    assert is_unlikely((-7.0, -8.0), 0.005)
    assert not is_unlikely((-7.0, None), 0.005)
    assert not is_unlikely((), 0.005)
    assert not is_unlikely((math.nan, math.nan), 0.005)
    assert is_unlikely((-745.0, -745.0), 0.005)


def test_the_summary_says_how_much_lies_outside(pair):
    with pytest.warns(UserWarning, match="low_option_mass"):
        rows = PairwiseLabeler(Fixed(0.0012)).label([pair])
    summary = summarize_labels(rows)
    assert summary.to_metrics("label")["label/off_option_mass"] == pytest.approx(0.9988)
    (note,) = summary.notes()
    assert "99.88%" in note
    assert "1 of 1 pairs have no label" in note
    (note,) = summarize_labels(PairwiseLabeler(Fixed(0.05)).label([pair])).notes()
    assert "95.00%" in note
    assert "no label" not in note
    assert summarize_labels(PairwiseLabeler(Fixed(0.5)).label([pair])).notes() == []
    assert summary.counts.malformed == 1


def test_a_reward_without_probability_is_refused_with_the_reason():
    reward = LabelerReward(ScoreLabeler(Fixed(0.001)))
    with (
        pytest.warns(UserWarning, match="outside the verdict tokens"),
        pytest.raises(ValueError, match=r"none for 2 \(low_option_mass: 2\)"),
    ):
        reward.score(["p", "q"], ["one", "two"])
