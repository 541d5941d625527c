"""Length-controlled win rate: by hand, against statsmodels, and where plain logistic fits fail."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit
from statsmodels.api import Logit

from rlaif_pl.statistics import Estimator, length_controlled_win_rate, wilson
from rlaif_pl.statistics.regression import PRIOR_PRECISION, win_rate_at_zero


def rate(wins, a, b, **options):
    return length_controlled_win_rate(wins, a, b, estimator=Estimator(200), **options)


def test_equal_lengths_give_the_plain_win_rate():
    wins = np.array([1, 0, 1, 1] * 10)
    assert rate(wins, np.full(40, 90), np.full(40, 90)).value == pytest.approx(0.75, abs=1e-3)


def test_two_ratios_by_hand():
    # Ratio 1.5 wins 3 of 4 (log-odds ln 3), ratio 0.75 wins 1 of 4 (-ln 3). The line through both
    # falls 2 ln 3 over 0.75, so at ratio 1 it is ln 3 - 0.5 * 2 ln 3 / 0.75 = -ln 3 / 3.
    wins = np.array([1, 1, 1, 0, 1, 0, 0, 0] * 20)
    a = np.array([150] * 4 + [75] * 4, float)
    expected = expit(-np.log(3) / 3)
    assert rate(wins, np.tile(a, 20), np.full(160, 100)).value == pytest.approx(expected, abs=1e-3)


def test_fit_equals_statsmodels_logit():
    rng = np.random.default_rng(0)
    ratio = rng.lognormal(0.2, 0.3, 300)
    wins = (rng.random(300) < expit(2 * (ratio - 1) + 0.3)).astype(float)
    fit = Logit(wins, np.stack([np.ones(300), ratio - 1], 1)).fit(disp=False)
    assert rate(wins, ratio * 100, np.full(300, 100)).value == pytest.approx(
        expit(fit.params[0]), abs=1e-4
    )


def test_a_judge_of_pure_length_has_no_preference_at_equal_length():
    rng = np.random.default_rng(4)
    ratio = rng.lognormal(0.3, 0.3, 400)  # A is longer on average, so it wins more often
    wins = (rng.random(400) < expit(4 * (ratio - 1))).astype(float)
    result = length_controlled_win_rate(
        wins, ratio, np.ones(400), estimator=Estimator(1000, seed=1)
    )
    assert wins.mean() > 0.65
    assert result.low < 0.5 < result.high


def test_separated_and_unanimous_wins_stay_finite():
    longer = np.array([1.2, 1.3, 1.4, 0.7, 0.8, 0.9])
    separated = rate((longer > 1).astype(float), longer, np.ones(6))
    assert 0 <= separated.low <= separated.value <= separated.high <= 1
    unanimous = rate(np.ones(20), np.linspace(0.8, 1.2, 20), np.ones(20))
    assert 0.99 < unanimous.value < 1


def test_intervals_are_by_group():
    rng = np.random.default_rng(1)
    ratio, wins = rng.lognormal(0, 0.2, 40), rng.integers(0, 2, 40)
    alone = rate(wins, ratio, np.ones(40))
    repeated = rate(
        np.repeat(wins, 4), np.repeat(ratio, 4), np.ones(160), groups=np.repeat(range(40), 4)
    )
    assert (repeated.low, repeated.high) == pytest.approx((alone.low, alone.high), abs=1e-3)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_newton_finds_the_optimum_scipy_finds(seed):
    rng = np.random.default_rng(seed)
    n = rng.integers(2, 12)
    wins, x = rng.integers(0, 3, n) / 2, rng.standard_t(2, n)  # heavy tails, often separable
    weights = rng.integers(0, 3, (1, n)).astype(float)
    weights[0, 0] += 1

    def loss(beta):
        z = beta[0] + beta[1] * x
        fit = weights[0] @ (np.logaddexp(0, z) - wins * z)
        return fit + PRIOR_PRECISION / 2 * (beta**2).sum()

    options = {"xatol": 1e-7, "fatol": 1e-13, "maxiter": 8000, "maxfev": 8000}
    peer = minimize(loss, np.zeros(2), method="Nelder-Mead", options=options)
    ours = win_rate_at_zero(np.stack([wins, x], 1), weights)[0]
    assert ours == pytest.approx(expit(peer.x[0]), abs=2e-3)


def test_no_comparisons_give_an_empty_interval():
    assert rate([], [], []).n == 0


@pytest.mark.parametrize(
    ("wins", "a", "b", "match"),
    [
        ([1], [1, 2], [1], "equal"),
        ([2], [1], [1], "wins in"),
        ([1], [1], [0], "empty B"),
    ],
)
def test_bad_input_is_refused(wins, a, b, match):
    with pytest.raises(ValueError, match=match):
        rate(wins, a, b)


@pytest.mark.parametrize(("slope", "win"), [(3, 0.0), (-3, 1.0)])
def test_one_extreme_length_does_not_undo_the_control(slope, win):
    rng = np.random.default_rng(0)
    ratio = np.exp(rng.normal(0.3, 0.35, 2000))
    wins = rng.binomial(1, expit(slope * (ratio - 1))).astype(float)  # even at equal length
    found = rate([*wins, win], [*(100 * ratio), 200], [100] * 2000 + [1])  # B's last is empty
    assert found.value == pytest.approx(0.5, abs=0.04)
    assert abs(wins.mean() - 0.5) > 0.2


def test_hardly_any_loss_does_not_claim_certainty():
    lengths = 80 * np.exp(np.random.default_rng(0).normal(0, 0.3, 120))
    plain = wilson(120, 120)
    unanimous = rate([1] * 120, lengths, [80] * 120)
    assert (unanimous.low, unanimous.high) == pytest.approx((plain.low, 1))
    assert rate([1] * 119 + [0], lengths, [80] * 120).low <= wilson(119, 120).low
    # prompts, not comparisons, are what is known
    owners = np.repeat(range(12), 10)
    assert rate([1] * 120, lengths, [80] * 120, groups=owners).low == pytest.approx(
        wilson(12, 12).low
    )


def test_one_ratio_of_all_says_nothing_of_equal_length():
    for ratio in (2, 9):
        found = rate([1, 1, 0, 1] * 10, [100 * ratio] * 40, [100] * 40)
        assert np.isnan(found.value)
        assert found.n == 40
    assert np.isnan(rate([1, 0], [500, 900], [100, 100]).value)  # both count as LARGEST_RATIO
