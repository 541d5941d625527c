"""Power and multiplicity against worked numbers."""

import math

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from rlaif_pl.statistics import (
    Estimator,
    Interval,
    holm,
    minimum_detectable_effect,
    standard_error_at_half,
    standard_error_by_group,
    standard_error_of,
    two_sided_p_value,
)


def test_detectable_at_80_percent_is_two_point_eight_errors():
    # z(0.975) = 1.95996, z(0.8) = 0.84162
    assert minimum_detectable_effect(0.02) == pytest.approx(0.02 * 2.80158, abs=1e-6)
    assert minimum_detectable_effect(0.1, power=0.5) == pytest.approx(0.195996, abs=1e-6)


def test_detectable_of_discordant_pairs():
    # 400 pairs, 40 gained and 40 lost: mean 0, variance 0.2, standard error sqrt(0.2 / 400)
    values = np.repeat([1.0, -1.0, 0.0], [40, 40, 320])
    error = standard_error_by_group(values, list(range(400)))
    assert error == pytest.approx(math.sqrt(0.2 * 400 / 399 / 400), rel=1e-12)
    assert 100 * minimum_detectable_effect(error) == pytest.approx(6.27, abs=0.01)


def test_rows_of_one_group_count_together():
    # groups (1, 1) and (0, 0): mean 0.5, residual sums 1 and -1, sqrt(2 / 1 * 2) / 4
    assert standard_error_by_group([1, 1, 0, 0], list("aabb")) == pytest.approx(0.5)
    assert standard_error_by_group([1, 1, 0, 0], list("abcd")) == pytest.approx(math.sqrt(1 / 12))


def test_one_group_has_no_error():
    assert math.isnan(standard_error_by_group([1, 0], ["a", "a"]))


def test_lengths_must_fit():
    with pytest.raises(ValueError, match="one group per value"):
        standard_error_by_group([1, 0], ["a"])


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_power_is_a_chance(power):
    with pytest.raises(ValueError, match="power"):
        minimum_detectable_effect(0.1, power=power)


def test_p_value_of_an_interval():
    # half width 0.196 is a standard error of 0.1; 0.6 is one error from 0.5
    interval = Interval(0.6, 0.6 - 0.1959964, 0.6 + 0.1959964, 100)
    assert standard_error_of(interval) == pytest.approx(0.1, abs=1e-6)
    assert two_sided_p_value(interval, 0.5) == pytest.approx(0.3173, abs=1e-4)
    assert two_sided_p_value(interval, 0.404004) == pytest.approx(0.05, abs=1e-4)


def test_p_value_without_width_or_limits():
    assert two_sided_p_value(Interval(0.5, 0.5, 0.5, 3), 0.5) == 1.0
    assert two_sided_p_value(Interval(1.0, 1.0, 1.0, 3), 0.5) == 0.0
    assert math.isnan(two_sided_p_value(Interval(1.0, math.nan, math.nan, 3), 0.5))


def test_holm_by_hand():
    # 0.01 * 3, 0.02 * 2, 0.04 * 1
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])


def test_holm_keeps_what_was_not_measured():
    adjusted = holm([0.01, math.nan, 0.02])
    assert adjusted[0] == pytest.approx(0.02)
    assert math.isnan(adjusted[1])


def test_holm_as_statsmodels_has_it():
    p = np.random.default_rng(0).uniform(size=15) ** 3
    assert holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1].tolist())


@pytest.mark.parametrize(("wins", "n"), [(3, 3), (7, 8), (9, 10), (16, 20), (2, 20), (0, 3)])
def test_p_value_and_limits_say_the_same_near_the_end_of_the_scale(wins, n):
    interval = Estimator().share([1.0] * wins + [0.0] * (n - wins), list(range(n)))
    p_value = two_sided_p_value(interval, 0.5)
    assert (p_value < 0.05) == (not interval.low <= 0.5 <= interval.high)
    # by hand: the side that faces 0.5 is 1.96 standard errors long
    facing = interval.low if interval.value > 0.5 else interval.high
    z = 1.959964 * abs(interval.value - 0.5) / abs(interval.value - facing)
    assert p_value == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-4)


@pytest.mark.parametrize("wins", [60, 117, 120])
def test_what_is_detectable_near_one_half_hangs_on_the_sample_not_on_its_share(wins):
    found = Estimator().share([1] * wins + [0] * (120 - wins), range(120))
    # an independent sample of 120 has an error of 0.5 / sqrt(120) at one half
    assert standard_error_at_half(found) == pytest.approx(0.5 / math.sqrt(120), rel=0.15)
    assert math.isnan(standard_error_at_half(Interval(0.5, math.nan, math.nan, 1)))
