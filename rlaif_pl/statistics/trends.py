"""Trends of means over training steps, with their noise; pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class BatchMean(NamedTuple):
    """A mean measured at one step."""

    step: int  # where, in optimizer steps
    mean: float  # the mean
    std: float  # standard deviation of what was averaged, at least 0
    size: int  # how many were averaged, at least 1


class Trend(NamedTuple):
    """A straight line through means over steps."""

    # change from the first step to the last along the line, in pooled standard deviations of what
    # was averaged; 0 where those are 0
    rise: float
    z: float  # slope over its standard error from sampling alone; infinite where there is no noise


def trend(points: Sequence[BatchMean]) -> Trend:
    """Fit a line by least squares; the noise of each mean is its ``std / sqrt(size)``.

    The residuals play no part in the noise: with a handful of points they say little, while each
    point's own samples say how far chance moves its mean. With ``x`` the centered steps,
    ``slope = sum(x m) / sum(x x)`` and ``error^2 = sum(x^2 std^2 / size) / sum(x x)^2``.

    Args:
        points: At least two, at different steps.

    Raises:
        ValueError: All points lie at one step.
    """
    known = {point.step for point in points}
    if len(known) < 2:
        raise ValueError(
            f"expected means at two steps or more, got {len(points)} at {sorted(known)}"
        )
    steps, means, stds, sizes = np.array(points, np.float64).T
    x = steps - steps.mean()
    slope = float(x @ means / (x @ x))
    error = math.sqrt(float(x**2 @ (stds**2 / sizes))) / float(x @ x)
    pooled = math.sqrt(float(sizes @ stds**2 / sizes.sum()))
    rise = slope * float(np.ptp(steps)) / pooled if pooled > 0 else 0.0
    if error > 0:
        return Trend(rise, slope / error)
    return Trend(rise, math.copysign(math.inf, slope) if slope else 0.0)


def divergence(reward: Trend, judge: Trend) -> float:
    """How far a reward rose while a judge fell, by the smaller movement; 0 unless both did."""
    return max(0.0, min(reward.rise, -judge.rise))
