"""Kappas with intervals by group: by hand, against statsmodels, and where they do not exist."""

import math

import numpy as np
import pytest
from statsmodels.stats.inter_rater import aggregate_raters
from statsmodels.stats.inter_rater import fleiss_kappa as statsmodels_fleiss

from rlaif_pl.statistics import Estimator, cohen_kappa, fleiss_kappa


def test_fleiss_by_hand():
    # Items: all three say a; two a, one b; all b. Agreeing pairs of raters: 1, 1/3, 1: mean 7/9.
    # Shares: a 5/9, b 4/9; chance 41/81. (7/9 - 41/81) / (40/81) = 22/40
    assert fleiss_kappa(["aaa", "aab", "bbb"]).value == pytest.approx(0.55)


def test_fleiss_is_that_of_statsmodels():
    ratings = np.random.default_rng(3).integers(0, 3, (60, 4))
    peer = statsmodels_fleiss(aggregate_raters(ratings)[0])
    assert fleiss_kappa(ratings.tolist()).value == pytest.approx(peer)


def test_two_raters_who_never_agree():
    # Cohen: observed 0, chance 1/2: -1; the same for Fleiss with equal habits.
    assert fleiss_kappa(["ab", "ba"]).value == pytest.approx(-1.0)
    assert cohen_kappa("ab", "ba").value == pytest.approx(-1.0)


def test_the_interval_holds_the_estimate_and_knows_groups():
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 2, 80)
    a, b = (np.where(rng.random(80) < 0.8, truth, 1 - truth) for _ in range(2))
    alone = cohen_kappa(a.tolist(), b.tolist(), list(range(80)), Estimator(1000))
    assert alone.value == pytest.approx(cohen_kappa(a.tolist(), b.tolist()).value)
    assert alone.low < alone.value < alone.high
    # Every row twice in one group: no new information, so the interval stays as wide.
    twice = cohen_kappa(
        np.repeat(a, 2).tolist(),
        np.repeat(b, 2).tolist(),
        np.repeat(np.arange(80), 2),
        Estimator(1000),
    )
    assert twice.value == pytest.approx(alone.value)
    assert twice.high - twice.low == pytest.approx(alone.high - alone.low, rel=0.15)
    both = fleiss_kappa(list(zip(a, b, strict=True)), list(range(80)), Estimator(500))
    assert both.low < both.value < both.high


def test_the_interval_covers_as_it_claims():
    # Two raters right with 0.85 on balanced truth: kappa = 2 (0.85^2 + 0.15^2) - 1 = 0.49.
    rng = np.random.default_rng(11)
    inside = 0
    for _ in range(120):
        truth = rng.integers(0, 2, 60)
        a, b = (np.where(rng.random(60) < 0.85, truth, 1 - truth) for _ in range(2))
        found = cohen_kappa(a.tolist(), b.tolist(), list(range(60)), Estimator(300))
        inside += found.low <= 0.49 <= found.high
    assert 0.88 <= inside / 120 <= 1.0  # 95 % give or take three standard errors


def test_a_kappa_that_does_not_exist_has_no_interval():
    single = cohen_kappa([1, 1, 1], [1, 1, 1], [0, 1, 2])
    assert math.isnan(single.value)
    assert math.isnan(single.low)
    assert math.isnan(fleiss_kappa(["aa", "aa"]).value)
    assert cohen_kappa([], [], []).n == 0


def test_resamples_without_a_kappa_are_left_out():
    # One item of ten is "b" for both: about a third of the resamples miss it and have no kappa.
    rare = ["a"] * 9 + ["b"]
    found = cohen_kappa(rare, [*rare[:8], "b", "b"], list(range(10)), Estimator(400))
    assert -1 <= found.low < found.value < found.high == 1


def test_full_agreement_claims_no_certainty():
    sure = cohen_kappa("ab" * 10, "ab" * 10)
    assert sure.value == 1.0
    assert math.isnan(sure.low)
    assert math.isnan(fleiss_kappa(["aaa", "bbb"] * 10).low)


def test_limits_of_few_items_are_kappas():
    found = cohen_kappa("aabb", "abbb")
    assert (found.low, found.high) == (-1, 1)  # four items tell nothing


def test_bad_ratings_are_refused():
    with pytest.raises(ValueError, match="number of raters"):
        fleiss_kappa(["ab", "a"])
    with pytest.raises(ValueError, match="at least 2"):
        fleiss_kappa(["a", "b"])
    with pytest.raises(ValueError, match="same items"):
        cohen_kappa("ab", "a", [0, 1])


def test_a_mean_over_very_many_groups_has_the_bootstraps_interval():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(2500), 2)
    values = rng.normal(size=5000) + np.repeat(rng.normal(size=2500), 2)
    fast = Estimator().mean(values, groups)
    slow = Estimator(500).bootstrap(values[:4000], groups[:4000])
    # By hand: groups of two with variance 1 + 1/2 of their mean; 1.96 sqrt(1.5 / 2500) = 0.048
    assert (fast.high - fast.low) / 2 == pytest.approx(0.048, rel=0.08)
    assert slow.high - slow.low == pytest.approx((fast.high - fast.low) * 1.118, rel=0.12)
    assert Estimator().mean(values[:400], groups[:400]) == Estimator().bootstrap(
        values[:400], groups[:400]
    )
