"""Regressions: win rates at equal length, and trends of means over training steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from rlaif_pl.statistics.intervals import (
    Array,
    Estimator,
    Groups,
    Interval,
    empty_interval,
    wilson,
)

PRIOR_PRECISION = 1e-3  # a normal prior of standard deviation 32 on both coefficients
LARGEST_RATIO = 4.0  # of lengths; one response beyond it would set the slope for all others
SAME_LENGTH = 1e-9  # ratios that differ by less are equal but for rounding
# Prompts' worth of the rarer outcome that a coefficient needs (Peduzzi et al. 1996).
FEWEST_EVENTS = 10
MAX_STEPS = 60
LARGEST_STEP = 3.0  # in log-odds; a full Newton step overshoots where data nearly separate


def length_controlled_win_rate(
    wins: ArrayLike,
    len_a: ArrayLike,
    len_b: ArrayLike,
    groups: Groups | None = None,
    estimator: Estimator = Estimator(),
) -> Interval:
    """Estimate how often A would win were its responses as long as B's (arXiv 2309.00267, appendix J).

    A logistic regression of "A wins" on length of A over length of B, read at ratio 1; it removes what
    is linear in the ratio, nothing else, and with A and B swapped it is another regression (B's rate is
    1 less A's). A ratio above ``LARGEST_RATIO`` counts as that: a single empty or endless response
    would else flatten the slope and leave all others uncontrolled. NaN where all ratios are the same
    and not 1, so that nothing is known of equal length.

    The paper's maximum likelihood is infinite where a ratio separates wins from losses (common in
    resamples of few prompts); a very wide normal prior keeps it finite there and changes others by
    under 0.001 from some tens of comparisons on. Where the rarer outcome has too few prompts for a
    regression (``FEWEST_EVENTS``) resamples hardly differ, and the limits are at least as wide as
    Wilson's of the plain share, a trial a prompt.

    Args:
        wins: 1 where A wins, 0 where B wins, 0.5 for a tie. ``(N,)``
        len_a: Length of A's response in characters, at least 0. ``(N,)``
        len_b: Length of B's response in characters, greater than 0. ``(N,)``
        groups: Prompt of each comparison; None takes every row as its own. ``(N,)``
        estimator: How the interval is made; the regression is fitted anew in each resample.

    Raises:
        ValueError: Shapes differ, a win lies outside [0, 1], or a length of B is not positive.
    """
    won, a, b = (np.asarray(x, np.float64) for x in (wins, len_a, len_b))
    if not won.shape == a.shape == b.shape or won.ndim != 1:
        raise ValueError(f"expected three equal (N,) shapes, got {won.shape} {a.shape} {b.shape}")
    if not len(won):
        return empty_interval()
    if won.min() < 0 or won.max() > 1:
        raise ValueError(f"expected wins in [0, 1], got {won.min():.3g} to {won.max():.3g}")
    if a.min() < 0 or b.min() <= 0:
        raise ValueError("expected len_a >= 0 and len_b > 0; leave out comparisons with an empty B")
    # 0 at equal length, so the prediction there is sigmoid(intercept)
    offset = np.minimum(a / b, LARGEST_RATIO) - 1
    scale = offset.std()
    if scale <= SAME_LENGTH and abs(offset[0]) > SAME_LENGTH:
        return replace(empty_interval(), n=len(won))
    feature = offset / scale if scale > SAME_LENGTH else np.zeros_like(offset)
    rows = np.stack([won, feature], 1)
    member = np.arange(len(won)) if groups is None else np.asarray(groups)
    found = estimator.bootstrap(rows, member, win_rate_at_zero)
    low, high, share, prompts = found.low, found.high, float(won.mean()), len(np.unique(member))
    if math.isnan(low):
        return found
    if min(share, 1 - share) * prompts < FEWEST_EVENTS:
        plain = wilson(share * prompts, prompts)
        low, high = min(low, plain.low), max(high, plain.high)
    return Interval(found.value, max(0.0, low), min(1.0, high), found.n)


def win_rate_at_zero(values: Array, weights: Array) -> Array:
    """Fit one logistic regression per row of weights, by Newton's method, and predict at feature 0.

    Columns of ``values (N, 2)`` are the win in [0, 1] and the feature; ``weights (draws, N)`` say how
    often a row counts in each fit. Returns ``(draws,)``.
    """
    won, feature = values.T
    design = np.stack([np.ones_like(feature), feature], 1)  # (N, 2)
    products = np.stack([design[:, 0], feature, feature**2], 1)  # (N, 3), of the Hessian
    beta = np.zeros((len(weights), 2))
    for _ in range(MAX_STEPS):
        expected = expit(beta @ design.T)
        gradient = (weights * (won - expected)) @ design - PRIOR_PRECISION * beta
        h00, h01, h11 = ((weights * expected * (1 - expected)) @ products).T
        h00, h11 = h00 + PRIOR_PRECISION, h11 + PRIOR_PRECISION
        hessian = np.array([[h00, h01], [h01, h11]]).transpose(2, 0, 1)  # (draws, 2, 2)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        size = np.abs(step).max(1, keepdims=True)
        beta += step * np.minimum(1, LARGEST_STEP / np.maximum(size, 1e-12))
        if size.max() < 1e-8:
            break
    return np.asarray(expit(beta[:, 0]))


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

    Residuals of a handful of points say little of the noise; each point's own samples do. With ``x``
    the centered steps, ``slope = sum(x m) / sum(x x)`` and
    ``error^2 = sum(x^2 std^2 / size) / sum(x x)^2``. ``ValueError``: all points lie at one step.
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
