"""Intervals: by hand, against scipy and statsmodels, coverage, and what happens without spread."""

import math

import numpy as np
import pytest
from scipy.stats import bootstrap
from statsmodels.stats.proportion import proportion_confint

from rlaif_pl.statistics import Estimator, Interval, empty_interval, ratio_of_means, wilson

BOOTSTRAP = Estimator()


def test_wilson_by_hand():
    # 1 of 2 at z^2 = 3.8415: center 0.5; half = sqrt(z2 (.25/2 + z2/16)) / (1 + z2/2) = 0.40547
    interval = wilson(1, 2)
    assert (interval.low, interval.high) == pytest.approx((0.09453, 0.90547), abs=1e-5)


@pytest.mark.parametrize(("k", "n"), [(0, 7), (7, 7), (3, 11), (90.5, 200)])
def test_wilson_equals_statsmodels(k, n):
    low, high = proportion_confint(k, n, alpha=0.05, method="wilson")
    interval = wilson(k, n)
    assert (interval.low, interval.high) == pytest.approx((max(low, 0), min(high, 1)))


def test_one_row_a_group_equals_scipys_bootstrap():
    values = np.random.default_rng(5).exponential(size=60)  # skewed, so BCa differs
    ours = Estimator(40_000, seed=1).bootstrap(values, np.arange(60))
    peer = bootstrap((values,), np.mean, n_resamples=40_000, method="BCa", rng=2)
    low, high = peer.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.015)
    assert ours.value == pytest.approx(values.mean())


def test_rows_of_a_group_count_as_one_draw():
    # Each group repeats one value 9 times: as much is known as from one row a group.
    values = np.random.default_rng(0).normal(size=40)
    one = BOOTSTRAP.bootstrap(values, np.arange(40))
    nine = BOOTSTRAP.bootstrap(np.repeat(values, 9), np.repeat(np.arange(40), 9))
    assert (nine.low, nine.high) == pytest.approx((one.low, one.high))
    assert (one.n, nine.n) == (40, 360)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(11)
    covered = 0
    for trial in range(300):
        effect = rng.normal(size=30)  # shared by the 3 rows of a group
        values = np.repeat(effect, 3) + 0.5 * rng.normal(size=90)
        interval = Estimator(400, trial).bootstrap(values, np.repeat(np.arange(30), 3))
        covered += interval.low <= 0 <= interval.high
    assert 0.90 <= covered / 300 <= 0.98


def test_the_same_seed_gives_the_same_interval_whatever_names_the_groups_have():
    values = np.random.default_rng(2).random(30)
    named = Estimator(seed=4).bootstrap(values, [f"g{i:02d}" for i in range(30)])
    assert named == Estimator(seed=4).bootstrap(values, np.arange(30))
    assert named != Estimator(seed=5).bootstrap(values, np.arange(30))


def test_chunks_do_not_change_the_result(monkeypatch):
    values = np.random.default_rng(2).random(30)
    whole = BOOTSTRAP.bootstrap(values, np.arange(30))
    monkeypatch.setattr("rlaif_pl.statistics.intervals.CHUNK_NUMBERS", 100)
    chunked = BOOTSTRAP.bootstrap(values, np.arange(30))
    assert (chunked.low, chunked.high) == pytest.approx((whole.low, whole.high))


def test_paired_difference_by_hand_and_its_gain_over_unpaired():
    rng = np.random.default_rng(7)
    base = rng.normal(size=50)
    a, b = base + 0.3 + 0.05 * rng.normal(size=50), base
    groups = np.arange(50)
    paired = BOOTSTRAP.difference(a, b, groups)
    assert paired.value == pytest.approx(a.mean() - b.mean())
    assert paired.high - paired.low < 0.05  # spread of the differences (0.05), not of a (1)
    assert BOOTSTRAP.difference([1, 0], [0, 0], ["x", "x"]).value == 0.5


def test_ratio_of_means_by_hand():
    # (3 + 5) / (2 + 2) = 2, not the mean of 1.5 and 2.5 by chance: sums, then the ratio.
    assert BOOTSTRAP.bootstrap([[3, 2], [5, 2]], ["a", "b"], ratio_of_means).value == 2


def test_a_single_group_has_a_value_but_no_interval():
    interval = BOOTSTRAP.bootstrap([1.0, 0.0], ["a", "a"])
    assert interval.value == 0.5
    assert math.isnan(interval.low)
    assert interval.to_metrics("x") == {"x": 0.5}


def test_unanimous_rows_do_not_claim_certainty():
    # 20 of 20: a bootstrap would say [1, 1]; Wilson says 20 / (20 + 3.8415) = 0.8389.
    interval = BOOTSTRAP.share(np.ones(20), np.arange(20))
    assert (interval.value, interval.high) == pytest.approx((1, 1))
    assert interval.low == pytest.approx(0.8389, abs=1e-4)
    few = BOOTSTRAP.share(np.ones(20), np.repeat([0, 1], 10))
    assert few.low == pytest.approx(2 / 5.8415, abs=1e-4)
    assert few.n == 20


def test_shares_of_very_many_groups_stay_within_0_and_1():
    # 3 of 3,000, all independent: normal limits would begin at 0.001 - 1.96 sqrt(0.001 / 3000) < 0.
    ones = np.arange(3000) < 3
    found = BOOTSTRAP.share(ones, range(3000))
    bound = wilson(3, 3000 - 1)  # the standard error divides by one group less
    assert (found.value, found.n) == (0.001, 3000)
    assert (found.low, found.high) == pytest.approx((bound.low, bound.high), rel=1e-3)
    assert BOOTSTRAP.mean(ones, range(3000)).low < 0 < found.low
    assert BOOTSTRAP.share(~ones, range(3000)).high < 1


def test_groups_that_all_differ_alike_do_not_claim_certainty():
    # 5 of 5 against 0 of 5: a bootstrap would say [1, 1]. Wilson has [0.5655, 1] and [0, 0.4345];
    # Newcombe goes down by sqrt(2) times 0.4345 from 1, to 0.3855.
    found = BOOTSTRAP.share_difference(np.ones(5), np.zeros(5), range(5))
    assert (found.value, found.high, found.n) == (1, 1, 5)
    assert found.low == pytest.approx(0.3855, abs=1e-4)
    same = BOOTSTRAP.share_difference([1, 0, 1, 1], [1, 0, 1, 1], range(4))
    assert same.low < 0 == same.value < same.high
    many = BOOTSTRAP.share_difference(np.ones(3000), np.zeros(3000), range(3000))
    assert 0.99 < many.low < many.high == 1


def test_shares_with_spread_differ_as_the_bootstrap_says():
    a, b = [1, 0, 1, 1, 0.5, 1], [0, 0, 1, 0, 0.5, 1]
    assert BOOTSTRAP.share_difference(a, b, range(6)) == BOOTSTRAP.difference(a, b, range(6))
    assert math.isnan(BOOTSTRAP.share_difference([1, 1], [0, 0], ["a", "a"]).low)


def test_a_proportion_with_spread_is_the_bootstraps():
    values = [1, 0, 1, 1, 0.5, 1]
    assert BOOTSTRAP.share(values, range(6)) == BOOTSTRAP.bootstrap(values, range(6))


def test_constant_values_have_an_interval_without_width():
    interval = BOOTSTRAP.bootstrap([0.25] * 5, range(5))
    assert (interval.low, interval.high) == (0.25, 0.25)


def test_no_rows_give_an_empty_interval_without_metrics():
    assert BOOTSTRAP.bootstrap([], []).n == 0
    assert BOOTSTRAP.share([], []).to_metrics("x") == {}
    assert empty_interval().percent() == "not measured"


def test_metrics_and_text_of_an_interval():
    interval = Interval(0.746, 0.69, 0.801, 240)
    assert interval.to_metrics("a/b") == {"a/b": 0.746, "a/b_low": 0.69, "a/b_high": 0.801}
    assert interval.percent() == "74.6 % [69.0, 80.1]"


@pytest.mark.parametrize(
    ("values", "groups", "options", "match"),
    [
        ([1.0], ["a", "b"], {}, "one group per row"),
        ([math.inf, 1.0], ["a", "b"], {}, "finite"),
        ([1.0, 2.0], ["a", "b"], {"draws": 0}, "draws"),
    ],
)
def test_bootstrap_refuses_bad_input(values, groups, options, match):
    with pytest.raises(ValueError, match=match):
        Estimator(**options).bootstrap(values, groups)


def test_proportions_and_wilson_refuse_what_is_no_proportion():
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        BOOTSTRAP.share([1.2], ["a"])
    with pytest.raises(ValueError, match="n >= 1"):
        wilson(0, 0)
    with pytest.raises(ValueError, match="paired"):
        BOOTSTRAP.difference([1.0], [1.0, 2.0], ["a"])


def test_intervals_as_text():
    found = Interval(0.123, 0.05, 0.2, 9)
    assert found.points() == "+12.3 [+5.0, +20.0]"
    assert found.number() == "0.12 [0.05, 0.20]"
    assert found.number(".1f") == "0.1 [0.1, 0.2]"
    assert Interval(-0.5, math.nan, math.nan, 1).points() == "-50.0"
    assert empty_interval().number() == "n/a"
    assert empty_interval().points() == "not measured"


@pytest.mark.parametrize("count", [2, 3, 5, 8, 12])
def test_intervals_of_few_groups_cover_the_truth(count):
    # percentiles of resamples alone cover 50 % with two groups, 73 with three, 87 with eight
    rows = np.random.default_rng(0).normal(size=(300, count))
    found = [Estimator(500).bootstrap(row, range(count)) for row in rows]
    assert np.mean([each.low <= 0 <= each.high for each in found]) > 0.91


def test_two_groups_have_students_interval():
    # mean 2, standard error 1, t of one degree of freedom 12.706
    interval = BOOTSTRAP.bootstrap([1, 3], range(2))
    assert (interval.low, interval.high) == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-4)
    kept = BOOTSTRAP.share_difference([0.25, 0.75], [0, 0], range(2))
    assert (kept.low, kept.high) == (-1, 1)


def test_a_share_of_few_groups_is_no_surer_than_one_of_unanimous_ones():
    almost, all_of_them = (
        BOOTSTRAP.share([1, 1, 0.75], range(3)),
        BOOTSTRAP.share([1] * 3, range(3)),
    )
    assert almost.low < all_of_them.low < 0.5  # three prompts show nothing
