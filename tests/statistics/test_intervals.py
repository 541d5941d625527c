"""Intervals: by hand, against scipy and statsmodels, coverage, and what happens without spread."""

import math

import numpy as np
import pytest
from scipy.stats import bootstrap
from statsmodels.stats.proportion import proportion_confint

from rlaif_pl.statistics import (
    Interval,
    bootstrap_by_group,
    empty_interval,
    paired_difference,
    proportion_by_group,
    ratio_of_means,
    wilson,
)


def test_wilson_by_hand():
    # 1 of 2 at z^2 = 3.8415: center 0.5; half = sqrt(z2 (.25/2 + z2/16)) / (1 + z2/2) = 0.40547
    interval = wilson(1, 2)
    assert (interval.low, interval.high) == pytest.approx((0.09453, 0.90547), abs=1e-5)


@pytest.mark.parametrize(("k", "n"), [(0, 7), (7, 7), (3, 11), (90.5, 200)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_wilson_equals_statsmodels(k, n, level):
    low, high = proportion_confint(k, n, alpha=1 - level, method="wilson")
    interval = wilson(k, n, level)
    assert (interval.low, interval.high) == pytest.approx((max(low, 0), min(high, 1)))


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_one_row_a_group_equals_scipys_bootstrap(method):
    values = np.random.default_rng(5).exponential(size=60)  # skewed, so BCa differs
    ours = bootstrap_by_group(values, np.arange(60), draws=40_000, seed=1, method=method)
    peer = bootstrap((values,), np.mean, n_resamples=40_000, method=method, rng=2)
    low, high = peer.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.015)
    assert ours.value == pytest.approx(values.mean())


def test_rows_of_a_group_count_as_one_draw():
    # Each group repeats one value 9 times: as much is known as from one row a group.
    values = np.random.default_rng(0).normal(size=40)
    one = bootstrap_by_group(values, np.arange(40))
    nine = bootstrap_by_group(np.repeat(values, 9), np.repeat(np.arange(40), 9))
    assert (nine.low, nine.high) == pytest.approx((one.low, one.high))
    assert (one.n, nine.n) == (40, 360)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(11)
    covered = 0
    for trial in range(300):
        effect = rng.normal(size=30)  # shared by the 3 rows of a group
        values = np.repeat(effect, 3) + 0.5 * rng.normal(size=90)
        interval = bootstrap_by_group(values, np.repeat(np.arange(30), 3), draws=400, seed=trial)
        covered += interval.low <= 0 <= interval.high
    assert 0.90 <= covered / 300 <= 0.98


def test_the_same_seed_gives_the_same_interval_whatever_names_the_groups_have():
    values = np.random.default_rng(2).random(30)
    named = bootstrap_by_group(values, [f"g{i:02d}" for i in range(30)], seed=4)
    assert named == bootstrap_by_group(values, np.arange(30), seed=4)
    assert named != bootstrap_by_group(values, np.arange(30), seed=5)


def test_chunks_do_not_change_the_result(monkeypatch):
    values = np.random.default_rng(2).random(30)
    whole = bootstrap_by_group(values, np.arange(30))
    monkeypatch.setattr("rlaif_pl.statistics.intervals.CHUNK_NUMBERS", 100)
    chunked = bootstrap_by_group(values, np.arange(30))
    assert (chunked.low, chunked.high) == pytest.approx((whole.low, whole.high))


def test_paired_difference_by_hand_and_its_gain_over_unpaired():
    rng = np.random.default_rng(7)
    base = rng.normal(size=50)
    a, b = base + 0.3 + 0.05 * rng.normal(size=50), base
    groups = np.arange(50)
    paired = paired_difference(a, b, groups)
    assert paired.value == pytest.approx(a.mean() - b.mean())
    assert paired.high - paired.low < 0.05  # spread of the differences (0.05), not of a (1)
    assert paired_difference([1, 0], [0, 0], ["x", "x"]).value == 0.5


def test_ratio_of_means_by_hand():
    # (3 + 5) / (2 + 2) = 2, not the mean of 1.5 and 2.5 by chance: sums, then the ratio.
    assert bootstrap_by_group([[3, 2], [5, 2]], ["a", "b"], ratio_of_means).value == 2


def test_a_single_group_has_a_value_but_no_interval():
    interval = bootstrap_by_group([1.0, 0.0], ["a", "a"])
    assert interval.value == 0.5
    assert math.isnan(interval.low)
    assert interval.to_metrics("x") == {"x": 0.5}


def test_unanimous_rows_do_not_claim_certainty():
    # 20 of 20: a bootstrap would say [1, 1]; Wilson says 20 / (20 + 3.8415) = 0.8389.
    interval = proportion_by_group(np.ones(20), np.arange(20))
    assert (interval.value, interval.high) == pytest.approx((1, 1))
    assert interval.low == pytest.approx(0.8389, abs=1e-4)
    few = proportion_by_group(np.ones(20), np.repeat([0, 1], 10))
    assert few.low == pytest.approx(2 / 5.8415, abs=1e-4)
    assert few.n == 20


def test_a_proportion_with_spread_is_the_bootstraps():
    values = [1, 0, 1, 1, 0.5, 1]
    assert proportion_by_group(values, range(6)) == bootstrap_by_group(values, range(6))


def test_constant_values_have_an_interval_without_width():
    interval = bootstrap_by_group([0.25] * 5, range(5))
    assert (interval.low, interval.high) == (0.25, 0.25)


def test_no_rows_give_an_empty_interval_without_metrics():
    assert bootstrap_by_group([], []).n == 0
    assert proportion_by_group([], []).to_metrics("x") == {}
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
        ([1.0, 2.0], ["a", "b"], {"level": 95}, "level"),
        ([1.0, 2.0], ["a", "b"], {"draws": 0}, "draws"),
    ],
)
def test_bootstrap_refuses_bad_input(values, groups, options, match):
    with pytest.raises(ValueError, match=match):
        bootstrap_by_group(values, groups, **options)


def test_proportions_and_wilson_refuse_what_is_no_proportion():
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        proportion_by_group([1.2], ["a"])
    with pytest.raises(ValueError, match="n >= 1"):
        wilson(0, 0)
    with pytest.raises(ValueError, match="paired"):
        paired_difference([1.0], [1.0, 2.0], ["a"])


def test_intervals_as_text():
    found = Interval(0.123, 0.05, 0.2, 9)
    assert found.points() == "+12.3 [+5.0, +20.0]"
    assert found.number() == "0.12 [0.05, 0.20]"
    assert found.number(".1f") == "0.1 [0.1, 0.2]"
    assert Interval(-0.5, math.nan, math.nan, 1).points() == "-50.0"
    assert empty_interval().number() == "n/a"
    assert empty_interval().points() == "not measured"
