"""Temperature, Brier score, calibration error: by hand, against statsmodels, refusals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.api import Logit

from rlaif_pl.statistics import (
    brier,
    expected_calibration_error,
    fit_temperature,
    fold,
    reliability_table,
)


def test_temperature_by_hand():
    # Margin 1 four times, right in 3: sigmoid(1/T) = 3/4, so 1/T = ln 3.
    assert fit_temperature([1, 1, 1, 1], [1, 1, 1, 0]) == pytest.approx(1 / math.log(3))


def test_a_soft_target_is_met_exactly():
    # sigmoid(2/T) = 0.8, so T = 2 / ln 4.
    assert fit_temperature([2.0], [0.8]) == pytest.approx(2 / math.log(4))


def test_temperature_equals_statsmodels_logit_without_intercept():
    rng = np.random.default_rng(1)
    margins = rng.normal(size=400)
    targets = rng.random(400) < 1 / (1 + np.exp(-margins / 0.4))
    slope = Logit(targets.astype(float), margins[:, None]).fit(disp=False).params[0]
    assert fit_temperature(margins, targets) == pytest.approx(1 / slope, rel=1e-6)


@settings(deadline=None)
@given(st.floats(1e-6, 1e6))
def test_scaling_margins_scales_the_temperature(scale):
    margins, targets = np.array([0.3, -1.0, 0.7, 2.0, -0.1]), np.array([1, 0, 0, 1, 1])
    expected = scale * fit_temperature(margins, targets)
    assert fit_temperature(scale * margins, targets) == pytest.approx(expected, rel=1e-6)


def test_separated_and_contradicting_labels_end_at_the_bounds():
    assert fit_temperature([2.0, -2.0], [1, 0], bounds=(0.1, 10)) == pytest.approx(0.2)
    assert fit_temperature([2.0, -2.0], [0, 1], bounds=(0.1, 10)) == pytest.approx(20)


@pytest.mark.parametrize(
    ("margins", "targets", "match"),
    [
        ([], [], "at least 1"),
        ([1.0, 2.0], [1.0], "same length"),
        ([math.nan], [1.0], "finite"),
        ([1.0], [1.5], r"in \[0, 1\]"),
        ([0.0, 0.0], [1.0, 0.0], "every margin is 0"),
    ],
)
def test_temperature_refuses_bad_input(margins, targets, match):
    with pytest.raises(ValueError, match=match):
        fit_temperature(margins, targets)


def test_temperature_refuses_bounds_in_the_wrong_order():
    with pytest.raises(ValueError, match="least < greatest"):
        fit_temperature([1.0], [1.0], bounds=(2, 1))


def test_brier_by_hand():
    # (0.2^2 + 0.6^2) / 2 = 0.2
    assert brier([0.8, 0.6], [1, 0]) == pytest.approx(0.2)


def test_calibration_error_by_hand():
    # Two bins of equal width: {0.2, 0.4} came true 0.5, {0.8, 0.9} came true 0.5.
    # |0.3 - 0.5| / 2 + |0.85 - 0.5| / 2 = 0.275
    p, y = [0.2, 0.8, 0.4, 0.9], [0, 1, 1, 0]
    assert expected_calibration_error(p, y, 2, "equal_width") == pytest.approx(0.275)
    assert expected_calibration_error(p, y, 2, "equal_mass") == pytest.approx(0.275)
    # One bin: |0.575 - 0.5|
    assert expected_calibration_error(p, y, 1) == pytest.approx(0.075)


def test_a_calibrated_judge_has_a_small_error_and_a_boastful_one_a_large():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    y = rng.random(20_000) < p
    assert expected_calibration_error(p, y) < 0.02
    assert expected_calibration_error((p > 0.5).astype(float), y) == pytest.approx(0.25, abs=0.02)


def test_equal_mass_bins_hold_as_many_and_keep_equal_predictions_together():
    p = np.linspace(0, 0.99, 100) ** 3
    assert [row.count for row in reliability_table(p, np.ones(100), 4)] == [25] * 4
    table = reliability_table([0.5] * 7 + [0.9] * 3, [1] * 10, 5)
    assert sorted(row.count for row in table) == [3, 7]


def test_certainty_falls_into_the_last_bin_of_equal_width():
    (row,) = reliability_table([1.0], [1.0], 10, "equal_width")
    assert (row.confidence, row.accuracy, row.count) == (1.0, 1.0, 1)


def test_folding_makes_calibration_independent_of_which_response_is_first():
    rng = np.random.default_rng(3)
    p, y, turn = rng.random(200), rng.integers(0, 2, 200).astype(float), rng.random(200) < 0.5
    turned = np.where(turn, 1 - p, p), np.where(turn, 1 - y, y)
    once, twice = fold(p, y), fold(*turned)
    np.testing.assert_allclose(once, twice, atol=1e-12)
    assert brier(*once) == pytest.approx(brier(p, y))


def test_an_undecided_judge_is_perfectly_calibrated_when_folded():
    assert expected_calibration_error(*fold([0.5] * 10, [1] * 10)) == 0


def test_margins_in_place_of_probabilities_are_refused():
    with pytest.raises(ValueError, match="sigmoid"):
        brier([2.0], [1.0])
