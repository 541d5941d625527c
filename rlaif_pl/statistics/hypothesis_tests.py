"""Tests made of intervals: p-values, their adjustment for number, and what a sample could find."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from rlaif_pl.statistics.intervals import SAME, Interval, Z


def minimum_detectable_effect(standard_error: float, power: float = 0.8) -> float:
    """Smallest true difference that a two-sided test finds with the given power.

    ``(z_(1 - alpha/2) + z_power) * standard_error`` (Bloom 1995, Evaluation Review 19:547), 2.80
    standard errors at a power, in (0, 1), of 0.8. A smaller "not significant" difference says little.
    """
    if not 0 < power < 1:
        raise ValueError(f"expected power in (0, 1), got {power}")
    return float(Z + ndtri(power)) * standard_error


def standard_error_of(interval: Interval) -> float:
    """Standard error that a normal interval of this width would have; NaN without limits."""
    return (interval.high - interval.low) / (2 * Z)


def standard_error_at_half(interval: Interval) -> float:
    """Standard error that this sample would have of a share of one half; NaN without limits.

    A share near 0 or 1 has a small error, which says nothing of how small a distance from one half is
    found: with as many trials as the interval is worth (its rows, at exactly 0 or 1) it is
    ``0.5 / sqrt(trials)``.
    """
    error, spread = standard_error_of(interval), interval.value * (1 - interval.value)
    if math.isnan(error):
        return math.nan
    return 0.5 * error / math.sqrt(spread) if spread > SAME else 0.5 / math.sqrt(interval.n)


def two_sided_p_value(interval: Interval, null: float) -> float:
    """P-value of ``null`` from an interval, by a normal as wide as the side that faces ``null``.

    The other side says nothing of ``null``: near the end of a scale it is cut short, and would make
    an interval that holds ``null`` look as if it did not. NaN where there are no limits.
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
    """Adjust p-values for their number, whatever their dependence (Holm 1979); NaN is not counted."""
    from statsmodels.stats.multitest import multipletests

    adjusted = np.array(p_values, np.float64)
    known = ~np.isnan(adjusted)
    if known.any():
        adjusted[known] = multipletests(adjusted[known], method="holm")[1]
    return list(adjusted.tolist())
