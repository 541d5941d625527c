"""Binomial test and Cohen's kappa: by hand and against statsmodels."""

import math

import numpy as np
import pytest
from statsmodels.stats.inter_rater import cohens_kappa, to_table

from rlaif_pl.statistics import binomial_test, cohen_kappa


def test_binomial_by_hand():
    # 5 of 5 or 0 of 5: 2 / 32
    assert binomial_test(5, 5) == pytest.approx(0.0625)


def test_kappa_by_hand_and_by_statsmodels():
    # Agree on 3 of 4; chance (2*3 + 2*1) / 16 = 0.5; (0.75 - 0.5) / 0.5
    assert cohen_kappa("aabb", "aaab").value == pytest.approx(0.5)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 3, 100).tolist(), rng.integers(0, 3, 100).tolist()
    table = to_table(np.stack([x, y], 1), bins=3)[0]
    assert cohen_kappa(x, y).value == pytest.approx(cohens_kappa(table).kappa)


def test_kappa_of_one_single_category_is_not_a_number():
    assert math.isnan(cohen_kappa([1, 1], [1, 1]).value)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="successes"):
        binomial_test(3, 2)
    with pytest.raises(ValueError, match="same items"):
        cohen_kappa([1], [1, 2])
