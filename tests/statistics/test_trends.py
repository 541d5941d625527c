import math

import pytest

from rlaif_pl.statistics.regression import BatchMean, Trend, divergence, trend


def test_a_line_by_hand():
    # Centered steps -1, 0, 1; slope (-1*0 + 1*2)/2 = 1; pooled std 1; rise 1*2/1 = 2.
    # error = sqrt((1 + 1) * 1/4) / 2 = 0.35355; z = 1/0.35355 = 2.8284
    found = trend([BatchMean(step, float(step), 1.0, 4) for step in (0, 1, 2)])
    assert found.rise == pytest.approx(2.0)
    assert found.z == pytest.approx(2 * math.sqrt(2))


def test_noise_is_that_of_each_mean():
    # Twice the samples: error shrinks by sqrt 2, the rise stays.
    few = trend([BatchMean(step, float(step), 1.0, 4) for step in (0, 5)])
    many = trend([BatchMean(step, float(step), 1.0, 8) for step in (0, 5)])
    assert many.rise == pytest.approx(few.rise)
    assert many.z == pytest.approx(few.z * math.sqrt(2))


def test_a_flat_line_without_noise_is_nothing():
    assert trend([BatchMean(0, 1.0, 0.0, 2), BatchMean(9, 1.0, 0.0, 2)]) == Trend(0.0, 0.0)


def test_one_step_has_no_trend():
    with pytest.raises(ValueError, match="at two steps or more, got 2 at \\[3\\]"):
        trend([BatchMean(3, 1.0, 1.0, 2), BatchMean(3, 2.0, 1.0, 2)])


@pytest.mark.parametrize(
    ("reward", "judge", "expected"),
    [(2.0, -0.5, 0.5), (0.3, -2.0, 0.3), (2.0, 0.1, 0.0), (-1, -1, 0)],
)
def test_divergence_is_the_smaller_movement_of_two_opposite_ones(reward, judge, expected):
    assert divergence(Trend(reward, 9.0), Trend(judge, -9.0)) == pytest.approx(expected)
