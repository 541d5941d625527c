"""Calibration of pairwise probabilities: temperature, Brier score, reliability and its summary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit

from rlaif_pl.statistics.intervals import Array

Binning = Literal["equal_mass", "equal_width"]


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Predictions that lie close together, and what came true of them."""

    confidence: float  # mean prediction, in [0, 1]
    accuracy: float  # mean outcome, in [0, 1]
    count: int  # predictions


def fit_temperature(
    margins: ArrayLike, targets: ArrayLike, bounds: tuple[float, float] = (1e-2, 1e2)
) -> float:
    """Fit T > 0, in nats, so that ``sigmoid(margin / T)`` has the greatest likelihood of the targets.

    Temperature scaling (Guo et al. 2017, arXiv 1706.04599, section 4.2) of a two-way choice, without an
    intercept: a margin of 0 stays at one half. With b = 1/T the loss is convex, and Brent's method
    finds the root of its derivative.

    Args:
        margins: Log-odds of the first response before scaling, in nats. ``(N,)``
        targets: Label or probability that the first is better, in [0, 1]. ``(N,)``
        bounds: Least and greatest T, in units of the margins' root mean square. Perfectly
            separated labels end at the least, labels that contradict the margins at the greatest.

    Raises:
        ValueError: No pairs, shapes differ, a number is not finite, a target lies outside [0, 1],
            every margin is 0, or the bounds are not ``0 < least < greatest``.
    """
    margin, target = _checked(margins, targets, "margins", "targets")
    if not 0 < bounds[0] < bounds[1]:
        raise ValueError(f"expected bounds with 0 < least < greatest, got {bounds}")
    size = float(np.abs(margin).max())
    if size == 0:
        raise ValueError("every margin is 0, so no temperature fits; check the labeler's scores")
    unit = size * float(np.sqrt(np.mean((margin / size) ** 2)))
    scaled = margin / unit

    def slope(log_temperature: float) -> float:
        return float(np.mean(scaled * (expit(scaled * np.exp(-log_temperature)) - target)))

    least, greatest = np.log(bounds[0]), np.log(bounds[1])
    if slope(least) <= 0:
        return bounds[0] * unit
    if slope(greatest) >= 0:
        return bounds[1] * unit
    return float(np.exp(brentq(slope, least, greatest, xtol=1e-12))) * unit


def brier(p: ArrayLike, y: ArrayLike) -> float:
    """Mean squared difference of probability and outcome in [0, 1], ``(N,)`` each; 0.25 of a coin."""
    predicted, outcome = _probabilities(p, y)
    return float(np.mean((predicted - outcome) ** 2))


def fold(p: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """Turn each pair so that the favored response is first; which stood there means nothing.

    Returns confidence in [0.5, 1] and the outcome seen from the favored side, ``(N,)`` each; at exactly
    one half there is no favored side, and the outcome counts as 0.5.
    """
    predicted, outcome = _probabilities(p, y)
    turned = np.where(predicted < 0.5, 1 - outcome, outcome)
    correct = np.where(predicted == 0.5, 0.5, turned)
    return np.maximum(predicted, 1 - predicted), correct


def reliability_table(
    p: ArrayLike, y: ArrayLike, bins: int = 10, binning: Binning = "equal_mass"
) -> list[ReliabilityBin]:
    """Group predictions ``p (N,)`` and compare each group's mean with its outcomes ``y (N,)``.

    Both lie in [0, 1]. ``equal_mass`` cuts at quantiles (equal predictions stay together, so there may
    be fewer than ``bins`` groups); ``equal_width`` cuts [0, 1] evenly. Groups come by rising
    prediction, without empty ones.
    """
    predicted, outcome = _probabilities(p, y)
    if bins < 1:
        raise ValueError(f"expected at least 1 bin, got {bins}")
    cuts = np.linspace(0, 1, bins + 1)[1:-1]
    if binning == "equal_mass":
        cuts = np.quantile(predicted, cuts)
    which = np.searchsorted(cuts, predicted, side="right")
    groups = (which == index for index in np.unique(which))
    return [
        ReliabilityBin(float(predicted[g].mean()), float(outcome[g].mean()), int(g.sum()))
        for g in groups
    ]


def expected_calibration_error(
    p: ArrayLike, y: ArrayLike, bins: int = 10, binning: Binning = "equal_mass"
) -> float:
    """Mean gap of prediction and outcome over the groups of ``reliability_table``, by their size.

    Naeini et al. 2015 (equal width); equal mass after Nguyen and O'Connor 2015. It is biased upward
    on few pairs, more so the more bins there are.
    """
    table = reliability_table(p, y, bins, binning)
    total = sum(row.count for row in table)
    return sum(row.count * abs(row.confidence - row.accuracy) for row in table) / total


def _probabilities(p: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    predicted, outcome = _checked(p, y, "p", "y")
    if predicted.min() < 0 or predicted.max() > 1:
        raise ValueError(
            f"expected p in [0, 1], got {predicted.min():.3g} to {predicted.max():.3g}; "
            "apply a sigmoid to margins first"
        )
    return predicted, outcome


def _checked(x: ArrayLike, y: ArrayLike, x_name: str, y_name: str) -> tuple[Array, Array]:
    """Return both as float64 ``(N,)``, finite, ``y`` in [0, 1]."""
    left, right = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if left.ndim != 1 or left.shape != right.shape or not len(left):
        raise ValueError(
            f"expected {x_name} and {y_name} of the same length, at least 1, "
            f"got shapes {left.shape} and {right.shape}"
        )
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise ValueError(
            f"expected finite {x_name} and {y_name}, got NaN or infinity; "
            "leave out pairs without a usable label"
        )
    if right.min() < 0 or right.max() > 1:
        raise ValueError(f"expected {y_name} in [0, 1], got {right.min():.3g} to {right.max():.3g}")
    return left, right
