"""Kendall's W and rank correlation: by hand, and as scipy has them."""

import numpy as np
import pytest
from scipy.stats import friedmanchisquare, rankdata, spearmanr

from rlaif_pl.statistics import kendall_w, rank_correlation

BY_HAND = [(1, 2, 3), (1, 3, 2), (2, 1, 3)]


def test_by_hand():
    # Sums 4, 6, 8 with mean 6: S = 8, W = 12 * 8 / (9 * 24).
    assert kendall_w(BY_HAND) == pytest.approx(4 / 9)
    # Squared differences of the pairs 2, 2, 6: correlations 1/2, 1/2, -1/2.
    assert rank_correlation(BY_HAND) == pytest.approx(1 / 6)


@pytest.mark.parametrize(("m", "n"), [(2, 2), (3, 3), (4, 9), (7, 4)])
def test_as_scipy_has_them(m, n):
    generator = np.random.default_rng(10 * m + n)
    ranks = np.array([generator.permutation(n) + 1 for _ in range(m)])
    pairs = [spearmanr(ranks[i], ranks[j])[0] for i in range(m) for j in range(i)]
    assert rank_correlation(ranks) == pytest.approx(np.mean(pairs))
    if n > 2:  # scipy's test wants three things at least
        chi_square = friedmanchisquare(*ranks.T)[0]
        assert kendall_w(ranks) == pytest.approx(chi_square / (m * (n - 1)))


def test_full_agreement_and_none():
    assert kendall_w([(3, 1, 2)] * 4) == pytest.approx(1)
    assert kendall_w([(1, 2), (2, 1)]) == 0
    assert rank_correlation([(1, 2), (2, 1)]) == -1


def test_ties_are_corrected_for():
    # As ranks 1, 2.5, 2.5 and 1, 2, 3: sums 2, 4.5, 5.5 with mean 4, S = 6.5; T = 2^3 - 2 = 6,
    # so W = 12 * 6.5 / (4 * 24 - 2 * 6).
    tied = [(1, 2, 2), (1, 2, 3)]
    assert kendall_w(tied) == pytest.approx(78 / 84)
    assert rank_correlation(tied) == pytest.approx(spearmanr(*tied)[0])
    assert kendall_w([(1, 1, 3)] * 3) == pytest.approx(1)
    generator = np.random.default_rng(1)
    draws = [rankdata(generator.integers(0, 3, (3, 5)), "min", axis=1) for _ in range(2000)]
    assert np.mean([kendall_w(ranks) for ranks in draws]) == pytest.approx(1 / 3, abs=0.02)
    for ranks in draws[:20]:
        chi_square = friedmanchisquare(*ranks.T)[0]  # which corrects for ties too
        assert kendall_w(ranks) == pytest.approx(chi_square / (3 * 4))


def test_who_found_all_equal_agrees_with_nobody():
    assert np.isnan(kendall_w([(1, 1), (1, 1)]))
    assert np.isnan(rank_correlation([(1, 1, 1), (1, 2, 3)]))
    assert rank_correlation([(1, 1, 1), (1, 2, 3), (1, 3, 2)]) == pytest.approx(0.5)


def test_ranks_at_random_reach_one_over_the_number_of_raters():
    generator = np.random.default_rng(0)
    draws = [[generator.permutation(4) + 1 for _ in range(3)] for _ in range(2000)]
    assert np.mean([kendall_w(ranks) for ranks in draws]) == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        ([(1, 2)], "shape"),
        ([(1,), (1,)], "shape"),
        ([(2, 2), (1, 2)], "each once"),
        ([(1, 1, 2), (1, 2, 3)], "each once"),
    ],
)
def test_what_is_no_ranking_is_refused(ranks, said):
    with pytest.raises(ValueError, match=said):
        kendall_w(ranks)
