"""Agreement of people who rank the same things."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from rlaif_pl.statistics.intervals import Array


def kendall_w(ranks: ArrayLike) -> float:
    """Kendall's coefficient of concordance of complete rankings, corrected for ties (Kendall 1948).

    ``W = 12 S / (m^2 (n^3 - n) - m T)``, with S the sum of squared deviations of the n rank sums from
    their mean and T the sum of ``t^3 - t`` over all runs of t equal ranks. Raters who rank at random
    reach 1/m on average, with or without ties, so a W says little without m: see ``rank_correlation``,
    which is 0 there.

    Args:
        ranks: Rank of each of n >= 2 things by each of m >= 2 raters, 1 for the best. Equal ranks are
            ties; the next rank counts the things before it (1, 1, 3). ``(m, n)``

    Returns:
        1 where all agree, 0 where all rank sums are equal; NaN where every rater found all equal.

    Raises:
        ValueError: Fewer than two raters or things, or a row is no ranking.
    """
    rows = _mid_ranks(ranks)
    m, n = rows.shape
    sums = rows.sum(0)
    spread = float(((sums - sums.mean()) ** 2).sum())
    # the sum of squares of a rater's ranks is (n^3 - n - T of the rater) / 12
    most = m * float(((rows - (n + 1) / 2) ** 2).sum())
    return spread / most if most else float("nan")


def rank_correlation(ranks: ArrayLike) -> float:
    """Mean Spearman correlation over all pairs of raters; without ties ``(m W - 1) / (m - 1)``.

    Args:
        ranks: As in ``kendall_w``. ``(m, n)``

    Returns:
        1 for full agreement, 0 for chance, at least ``-1 / (m - 1)`` without ties. A rater who found
        all equal correlates with nobody and is left out; NaN where fewer than two are left.

    Raises:
        ValueError: See ``kendall_w``.
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
    mid: Array = np.asarray(rankdata(rows, method="average", axis=1), np.float64)
    return mid
