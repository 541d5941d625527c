"""What a sample can tell apart, and how many comparisons were looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from rlaif_pl.statistics.intervals import Interval, Z


def minimum_detectable_effect(standard_error: float, power: float = 0.8) -> float:
    """Smallest true difference that a two-sided test finds with the given power.

    ``(z_(1 - alpha/2) + z_power) * standard error`` (Bloom 1995, Evaluation Review 19:547), 2.80
    standard errors at 80 % power and a 5 % test. A difference below it that is "not significant" says
    little.

    Args:
        standard_error: Of the difference, at least 0, in its units.
        power: Chance to find it, in (0, 1).
    """
    if not 0 < power < 1:
        raise ValueError(f"expected power in (0, 1), got {power}")
    return float(Z + ndtri(power)) * standard_error


def standard_error_of(interval: Interval) -> float:
    """Standard error that a normal interval of this width would have; NaN without limits."""
    return (interval.high - interval.low) / (2 * Z)


def two_sided_p_value(interval: Interval, null: float) -> float:
    """P-value of ``null`` from an interval, by a normal as wide as the side that faces ``null``.

    The other side says nothing of ``null``: near the end of a scale it is cut short, and would make
    an interval that holds ``null`` look as if it did not.

    Args:
        interval: Estimate with limits.
        null: Value to test.

    Returns:
        P-value in [0, 1]; 1 where the estimate is ``null``; NaN where
        there are no limits.
    """
    if not all(math.isfinite(v) for v in (interval.value, interval.low, interval.high)):
        return math.nan
    facing = interval.low if null < interval.value else interval.high
    error = abs(interval.value - facing) / Z
    gap = abs(interval.value - null)
    if gap == 0 or error == 0:
        return 1.0 if gap == 0 else 0.0
    return float(2 * ndtr(-gap / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for the number of tests (Holm 1979); NaN stays NaN and is not counted.

    Rejecting those at most 0.05 keeps the chance of any false rejection at 5 %, whatever their
    dependence.
    """
    from statsmodels.stats.multitest import multipletests

    adjusted = np.array(p_values, np.float64)
    known = ~np.isnan(adjusted)
    if known.any():
        adjusted[known] = multipletests(adjusted[known], method="holm")[1]
    found: list[float] = adjusted.tolist()
    return found
