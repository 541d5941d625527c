"""Agreement of people who rank the same things."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlaif_pl.statistics.intervals import Array


def kendall_w(ranks: ArrayLike) -> float:
    """Kendall's coefficient of concordance of complete rankings without ties (Kendall and Smith 1939).

    ``W = 12 S / (m^2 (n^3 - n))``, with S the sum of squared deviations of the n rank sums from their
    mean. Raters who rank at random reach 1/m on average, so a W says little without m: see
    ``rank_correlation``, which is 0 there.

    Args:
        ranks: Rank of each of n >= 2 things by each of m >= 2 raters, a permutation of 1..n a row.
            ``(m, n)``

    Returns:
        1 where all agree, 0 where all rank sums are equal.

    Raises:
        ValueError: Fewer than two raters or things, or a row is no permutation of 1..n.
    """
    rows = _checked(ranks)
    m, n = rows.shape
    sums = rows.sum(0)
    spread = float(((sums - sums.mean()) ** 2).sum())
    return 12 * spread / (m**2 * (n**3 - n))


def rank_correlation(ranks: ArrayLike) -> float:
    """Mean Spearman correlation over all pairs of raters, ``(m W - 1) / (m - 1)``.

    Args:
        ranks: As in ``kendall_w``. ``(m, n)``

    Returns:
        1 for full agreement, 0 for chance, at least ``-1 / (m - 1)``.

    Raises:
        ValueError: See ``kendall_w``.
    """
    rows = _checked(ranks)
    return (len(rows) * kendall_w(rows) - 1) / (len(rows) - 1)


def _checked(ranks: ArrayLike) -> Array:
    """Return ranks as ``(m, n)`` after checking that they are complete and without ties."""
    rows = np.asarray(ranks, np.float64)
    if rows.ndim != 2 or rows.shape[0] < 2 or rows.shape[1] < 2:
        raise ValueError(
            f"expected ranks of at least 2 things by at least 2 raters, got shape {rows.shape}"
        )
    if not (np.sort(rows, axis=1) == np.arange(1, rows.shape[1] + 1)).all():
        raise ValueError(
            f"expected each rater's ranks to be 1..{rows.shape[1]}, each once, got {rows.tolist()}"
        )
    return rows
