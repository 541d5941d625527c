import math
from dataclasses import replace

import pytest

from rlaif_pl.labeling import EnsembleLabeler, PairwiseLabeler
from rlaif_pl.types import Labeler, Provenance


class Fixed:
    """A labeler that always says the same."""

    def __init__(self, p_first, name="fixed", failure=None, gap=None, tokens=3, cost=0.25):
        self.fingerprint = name
        note = Provenance(
            labeler=name, position_gap=gap, tokens=tokens, cost_usd=cost, failure=failure
        )
        self.said = {"p_first": p_first, "source": p_first and "ai", "provenance": note}

    def label(self, pairs):
        return [replace(pair, **self.said) for pair in pairs]


def test_the_weighted_average_by_hand(pair):
    # (3 * .9 + 1 * .5) / 4 = .8; log-odds ln 4.
    members = [Fixed(0.9, "a", gap=0.2), Fixed(0.5, "b")]
    ensemble = EnsembleLabeler(members, weights=[3, 1])
    (judged,) = ensemble.label([pair])
    assert judged.p_first == pytest.approx(0.8)
    note = judged.provenance
    assert note.margin == pytest.approx(math.log(4))
    assert note.ensemble_spread == pytest.approx(0.4)
    assert note.position_gap == 0.2  # of the members that have orders
    assert (note.slot, note.same_slot) == (None, None)
    assert (note.tokens, note.cost_usd, note.labeler) == (6, 0.5, "a & b")
    assert isinstance(ensemble, Labeler)
    ensemble.temperature = 2.0  # as fitting does: odds 2 : 1
    assert ensemble.label([pair])[0].p_first == pytest.approx(2 / 3)


def test_a_failed_member_fails_the_pair_or_is_left_out_and_counted(pair):
    members = [Fixed(0.9), Fixed(None, failure="refused"), Fixed(0.5)]
    strict = EnsembleLabeler(members)
    (judged,) = strict.label([pair])
    assert (judged.p_first, judged.provenance.failure) == (None, "refused")
    assert judged.provenance.tokens == 9  # failures cost too
    lenient = EnsembleLabeler(members, on_failure="skip", weights=[1, 5, 3])
    (judged,) = lenient.label([pair])
    assert judged.p_first == pytest.approx((0.9 + 3 * 0.5) / 4)
    lenient.label([pair, pair])
    assert strict.left_out == {"2:refused": 1}
    assert lenient.left_out == {"2:refused": 3}
    everyone = EnsembleLabeler([Fixed(None, failure="both"), Fixed(None)], on_failure="skip")
    assert everyone.label([pair])[0].provenance.failure == "both"


@pytest.mark.parametrize(
    ("votes", "p_first"), [((1.0, 1.0), 1.0), ((0.0, 0.0), 0.0), ((1.0, 0.0), 0.5)]
)
def test_one_hot_members_are_averaged_as_they_are(pair, votes, p_first):
    (judged,) = EnsembleLabeler([Fixed(vote) for vote in votes]).label([pair])
    assert judged.p_first == p_first
    assert judged.source == "ai"


def test_members_and_settings_are_in_the_fingerprint():
    a, b = Fixed(0.5, "a"), Fixed(0.5, "b")
    made = [EnsembleLabeler([a, b]), EnsembleLabeler([b, a]), EnsembleLabeler([a, a])]
    made += [EnsembleLabeler([a, b], weights=[2, 1]), EnsembleLabeler([a, b], on_failure="skip")]
    made += [EnsembleLabeler([a, b], temperature=2.0)]
    assert len({ensemble.fingerprint for ensemble in made}) == len(made)
    same = EnsembleLabeler([a, b], weights=[4, 4])
    assert same.fingerprint == made[0].fingerprint


def test_replies_of_every_member_that_asks_a_model_are_kept():
    class Asks(Fixed):
        def keep_replies(self, store, watch=None):
            self.kept = (store, watch)

    member = Asks(0.5)
    watch = print
    EnsembleLabeler([EnsembleLabeler([member, Fixed(0.5)]), Fixed(0.5)]).keep_replies(None, watch)
    assert member.kept == (None, watch)


@pytest.mark.parametrize("failure", ["timeout", "http_429", "http_400"])
def test_a_member_that_is_asked_again_is_not_left_out_for_good(pair, failure):
    members = [Fixed(0.9), Fixed(None, failure="refused"), Fixed(None, failure=failure)]
    (judged,) = EnsembleLabeler(members, on_failure="skip").label([pair])
    assert (judged.p_first, judged.provenance.failure) == (None, failure)
    # also where nobody labeled; one without a weight changes nothing
    (judged,) = EnsembleLabeler(members[1:], on_failure="skip").label([pair])
    assert judged.provenance.failure == failure
    (judged,) = EnsembleLabeler(members, weights=[1, 1, 0], on_failure="skip").label([pair])
    assert judged.p_first == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("count", "options", "match"),
    [
        (1, {}, "at least two"),
        (2, {"weights": [1.0]}, "2 weights"),
        (2, {"weights": [1.0, -1.0]}, "at least 0"),
        (2, {"weights": [0.0, 0.0]}, "not all 0"),
        (2, {"weights": [math.nan, 1.0]}, "at least 0"),
        (2, {"on_failure": "guess"}, "fail"),
        (2, {"temperature": -1.0}, "above 0"),
    ],
)
def test_mistakes_are_refused(count, options, match):
    with pytest.raises(ValueError, match=match):
        EnsembleLabeler([Fixed(0.5)] * count, **options)


def test_an_ensemble_of_labelers_that_ask(hashed, pair):
    members = [PairwiseLabeler(hashed(), preamble=preamble) for preamble in ("base", "detailed")]
    (judged,) = EnsembleLabeler(members).label([pair])
    mean = sum(member.label([pair])[0].p_first for member in members) / 2
    assert judged.p_first == pytest.approx(mean, abs=1e-12)
