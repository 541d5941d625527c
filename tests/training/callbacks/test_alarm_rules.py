from statistics import NormalDist

import pytest

from rlaif_pl.text import repeated_ngrams, shared_ngrams
from rlaif_pl.training.callbacks.alarm_rules import (
    ADVICE,
    AlarmLimits,
    count_streaks,
    symptoms,
    z_at_look,
)


def test_shared_ngrams_by_hand():
    # Two 4-grams in the first, the second shared; once in one prompt's own responses is not shared.
    assert shared_ngrams([["A b, c d e"], ["x b c d e", "b c"], ["q r s t", "q r s t"]]) == [
        [0.5],
        [0.5, 0.0],
        [0.0, 0.0],
    ]
    assert shared_ngrams([]) == []


def test_repeated_ngrams_by_hand():
    # "a b a b a": 3-grams aba, bab, aba: 2 distinct of 3.
    assert repeated_ngrams("a b A b a") == pytest.approx(1 / 3)
    assert repeated_ngrams("one two three four") == 0.0
    assert repeated_ngrams("one two") == 0.0
    assert repeated_ngrams("......") == pytest.approx(3 / 4)  # one distinct of four


def test_symptoms_are_counted():
    assert symptoms(["a b c d", "x x x x x x", " ", ""], 3, 0.25) == (1, 2, 4)


def test_limits_work_both_ways_and_can_be_off():
    limits = AlarmLimits(shortest=0.5, longest=2.0, kl=10.0, empty=None)
    assert limits.crossed({"length_ratio": 0.4, "kl": 11.0, "empty": 1.0}) == {
        "length_ratio": 0.5,
        "kl": 10.0,
    }
    assert limits.crossed({"length_ratio": 2.1}) == {"length_ratio": 2.0}
    assert limits.crossed({"length_ratio": 2.0, "kl": 10.0}) == {}
    assert limits.crossed({"kl": float("nan")}) == {}


@pytest.mark.parametrize("wrong", [{"kl": -1.0}, {"shortest": 2.0, "longest": 1.0}])
def test_limits_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=r"limits\."):
        AlarmLimits(**wrong)


def test_there_is_advice_for_every_quantity():
    assert ADVICE.keys() == {
        "length_ratio",
        "kl",
        "unfinished",
        "repetitive",
        "empty",
        "divergence",
    }


def test_a_streak_ends_where_its_quantity_is_measured_and_fine():
    streaks = {}
    count_streaks(streaks, 1, ["kl", "divergence"], {"kl": 1.0, "divergence": 1.0})
    count_streaks(streaks, 2, ["kl"], {"kl": 1.0})  # the judge was not asked: its streak stays
    assert streaks == {"kl": (1, 2), "divergence": (1, 1)}
    count_streaks(streaks, 3, ["kl"], {})
    assert streaks == {"divergence": (1, 1)}


def test_many_looks_have_the_chance_of_one():
    # Phi(-2) = 0.02275; a half of it at the first look, a sixth at the second
    assert z_at_look(2.0, 1) == pytest.approx(2.2773, abs=1e-3)
    spent = [NormalDist().cdf(-z_at_look(2.0, look)) for look in range(1, 400)]
    assert 0.99 * 0.02275 < sum(spent) < 0.02275
