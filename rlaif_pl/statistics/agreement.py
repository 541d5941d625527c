"""Tests of agreement: is a side favored, how far do raters agree on categories and on ranks.

Kappas equal those of statsmodels (tested), which are not made for all resamples of a bootstrap at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from rlaif_pl.statistics.intervals import SAME, Array, Estimator, Groups, Interval, Statistic

Ratings = Sequence[Hashable]  # categories


def binomial_test(successes: int, n: int, p: float = 0.5) -> float:
    """Two-sided exact p-value of ``successes`` in ``n`` independent trials of probability ``p``."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"expected n >= 1 and successes in [0, n], got {successes} of {n}")
    from scipy.stats import binomtest  # its import takes a second

    return float(binomtest(successes, n, p).pvalue)


def cohen_kappa(
    a: Ratings, b: Ratings, groups: Groups | None = None, estimator: Estimator = Estimator()
) -> Interval:
    """Agreement of two raters beyond what their habits alone would give (Cohen 1960).

    ``a`` and ``b`` are the category that each gave to each item, ``(N,)``; ``groups``, ``(N,)``, are
    drawn together, and None takes each item as its own. Resamples without a kappa are left out. 1 for
    full agreement, 0 for chance; NaN where both raters only ever used one and the same category. Limits
    are in [-1, 1], and NaN where all resamples have the same kappa, as with full agreement.
    """
    if len(a) != len(b):
        raise ValueError(f"expected two ratings of the same items, got {len(a)} and {len(b)}")
    number = _numbered([*a, *b])
    coded = np.array([[number[x], number[y]] for x, y in zip(a, b, strict=True)], np.float64)
    return _kappa(coded, groups, estimator, _cohen)


def fleiss_kappa(
    ratings: Sequence[Ratings], groups: Groups | None = None, estimator: Estimator = Estimator()
) -> Interval:
    """Agreement of several raters beyond chance (Fleiss 1971), ``ratings (N, raters)``; else as above.

    Unlike Cohen's, chance is taken from the categories' overall shares, so raters are exchangeable:
    with two raters the two kappas differ where the raters' habits do. ``ValueError``: no item, fewer
    than two raters, or items with different numbers of them.
    """
    raters = {len(row) for row in ratings}
    if len(raters) != 1 or min(raters) < 2:
        raise ValueError(
            f"expected the same number of raters, at least 2, for every item, got {sorted(raters)}"
        )
    number = _numbered([category for row in ratings for category in row])
    counts = np.zeros((len(ratings), len(number)))  # raters of each category, by item
    for item, row in enumerate(ratings):
        for category in row:
            counts[item, number[category]] += 1
    return _kappa(counts, groups, estimator, _fleiss)


def _kappa(rows: Array, groups: Groups | None, estimator: Estimator, of: Statistic) -> Interval:
    """Kappa with limits in [-1, 1]; resamples that all have one and the same know none."""
    found = estimator.bootstrap(rows, range(len(rows)) if groups is None else groups, of)
    limits = np.clip([found.low, found.high], -1, 1)
    low, high = (limits if np.ptp(limits) > SAME else np.full(2, np.nan)).tolist()
    return replace(found, low=low, high=high)


def _numbered(categories: Ratings) -> dict[Hashable, int]:
    return {category: n for n, category in enumerate(dict.fromkeys(categories))}


def _cohen(coded: Array, weights: Array) -> Array:
    """Cohen's kappa of ``coded (N, 2)`` under each row of ``weights (draws, N)``, ``(draws,)``."""
    total = weights.sum(1)
    observed = weights @ (coded[:, 0] == coded[:, 1]) / total
    shares = [
        (weights @ (coded[:, 0] == c) / total) * (weights @ (coded[:, 1] == c) / total)
        for c in np.unique(coded)
    ]
    return _beyond(observed, np.sum(shares, axis=0))


def _fleiss(counts: Array, weights: Array) -> Array:
    """Fleiss' kappa of ``counts (N, categories)`` under each row of weights, ``(draws,)``."""
    raters = counts[0].sum()
    agreeing = (counts**2).sum(1) - raters  # ordered pairs of raters that agree on an item
    total = weights.sum(1)
    observed = weights @ (agreeing / (raters * (raters - 1))) / total
    shares = weights @ counts / (total * raters)[:, None]
    return _beyond(observed, (shares**2).sum(1))


def _beyond(observed: Array, chance: Array) -> Array:
    """``(observed - chance) / (1 - chance)``, NaN where chance explains everything."""
    left = 1 - chance
    exists = left > 1e-12
    return np.where(exists, (observed - chance) / np.where(exists, left, 1.0), np.nan)


def kendall_w(ranks: ArrayLike) -> float:
    """Kendall's coefficient of concordance of complete rankings, corrected for ties (Kendall 1948).

    ``W = 12 S / (m^2 (n^3 - n) - m T)``, with S the sum of squared deviations of the n rank sums from
    their mean and T the sum of ``t^3 - t`` over all runs of t equal ranks; NaN where every rater found
    all equal. Ranks at random reach 1/m on average; ``rank_correlation`` is 0 there. ``ranks (m, n)``
    are those of n >= 2 things by m >= 2 raters, 1 for the best; the rank after ties counts the things
    before it (1, 1, 3). ``ValueError``: fewer raters or things, or a row is no such ranking.
    """
    rows = _mid_ranks(ranks)
    m, n = rows.shape
    sums = rows.sum(0)
    spread = float(((sums - sums.mean()) ** 2).sum())
    # the sum of squares of a rater's ranks is (n^3 - n - T of the rater) / 12
    most = m * float(((rows - (n + 1) / 2) ** 2).sum())
    return spread / most if most else float("nan")


def rank_correlation(ranks: ArrayLike) -> float:
    """Mean Spearman correlation over all pairs of raters; ``ranks`` and errors as of ``kendall_w``.

    Without ties ``(m W - 1) / (m - 1)``: 1 for full agreement, 0 for chance. A rater who found all
    equal correlates with nobody and is left out; NaN where fewer than two are left.
    """
    rows = _mid_ranks(ranks)
    centered = [row - row.mean() for row in rows if np.ptp(row)]
    pairs = [float(a @ b / np.sqrt((a @ a) * (b @ b))) for a, b in combinations(centered, 2)]
    return float(np.mean(pairs)) if pairs else float("nan")


def _mid_ranks(ranks: ArrayLike) -> Array:
    """Return ranks as ``(m, n)`` after checking them; tied things share the mean of their ranks."""
    rows = np.asarray(ranks, np.float64)
    if rows.ndim != 2 or rows.shape[0] < 2 or rows.shape[1] < 2:
        raise ValueError(
            f"expected ranks of at least 2 things by at least 2 raters, got shape {rows.shape}"
        )
    from scipy.stats import rankdata  # its import takes a second

    if not (rankdata(rows, method="min", axis=1) == rows).all():
        raise ValueError(
            f"expected each rater's ranks to be 1 to {rows.shape[1]}, each once or, of equal things, "
            f"the same rank and the next ones left out (1, 1, 3), got {rows.tolist()}"
        )
    return np.asarray(rankdata(rows, method="average", axis=1), np.float64)
