"""What a sample can tell apart, and how many comparisons were looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from rlaif_pl.statistics.intervals import Groups, Interval


def standard_error_by_group(values: ArrayLike, groups: Groups) -> float:
    """Cluster-robust standard error of a mean; NaN of a single group.

    ``sqrt(G / (G - 1) * sum_g (sum of group g - rows of g * mean)^2) / N`` (Cameron and Miller 2015,
    for a constant as the only regressor). With groups of one row this is ``std(ddof=1) / sqrt(N)``.

    Args:
        values: One number a row. ``(N,)``
        groups: Group of each row. ``(N,)``

    Raises:
        ValueError: Lengths differ.
    """
    rows = np.asarray(values, np.float64)
    if rows.ndim != 1 or len(rows) != len(groups):
        raise ValueError(f"expected one group per value, got {rows.shape} and {len(groups)}")
    if not len(rows):
        return math.nan
    member = np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(member.max()) + 1
    if count < 2:
        return math.nan
    residuals = np.bincount(member, rows) - np.bincount(member) * rows.mean()
    return math.sqrt(count / (count - 1) * float((residuals**2).sum())) / len(rows)


def minimum_detectable_effect(
    standard_error: float, power: float = 0.8, level: float = 0.95
) -> float:
    """Smallest true difference that a two-sided test finds with the given power.

    ``(z_(1 - alpha/2) + z_power) * standard error`` (Bloom 1995, Evaluation Review 19:547), 2.80
    standard errors at 80 % power and a 5 % test. A difference below it that is "not significant" says
    little.

    Args:
        standard_error: Of the difference, at least 0, in its units.
        power: Chance to find it, in (0, 1).
        level: Coverage of the interval that must exclude 0, in (0, 1).
    """
    if not 0 < power < 1 or not 0 < level < 1:
        raise ValueError(f"expected power and level in (0, 1), got {power} and {level}")
    return float(norm.ppf((1 + level) / 2) + norm.ppf(power)) * standard_error


def standard_error_of(interval: Interval, level: float = 0.95) -> float:
    """Standard error that a normal interval of this width would have; NaN without limits."""
    return (interval.high - interval.low) / (2 * float(norm.ppf((1 + level) / 2)))


def two_sided_p_value(interval: Interval, null: float, level: float = 0.95) -> float:
    """P-value of ``null`` from an interval, by a normal of the interval's own width.

    Args:
        interval: Estimate with limits.
        null: Value to test.
        level: Coverage of the interval.

    Returns:
        P-value in [0, 1]; 1 where the interval has no width and the estimate is ``null``; NaN where
        there are no limits.
    """
    if not all(math.isfinite(v) for v in (interval.value, interval.low, interval.high)):
        return math.nan
    error = standard_error_of(interval, level)
    gap = abs(interval.value - null)
    if error == 0:
        return 1.0 if gap == 0 else 0.0
    return float(2 * norm.sf(gap / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for the number of tests (Holm 1979); NaN stays NaN and is not counted.

    The k-th smallest of m is multiplied by ``m - k + 1``, made monotone and cut at 1. Rejecting those
    at most 0.05 keeps the chance of any false rejection at 5 %, whatever their dependence.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[index] = highest
    return adjusted
