"""Tests of agreement: is a side favored, do two judges differ, how far do two raters agree."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest


def binomial_test(successes: int, n: int, p: float = 0.5) -> float:
    """Two-sided exact p-value of ``successes`` in ``n`` independent trials of probability ``p``.

    Raises:
        ValueError: ``n`` is below 1, or ``successes`` lies outside [0, n].
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"expected n >= 1 and successes in [0, n], got {successes} of {n}")
    return float(binomtest(successes, n, p).pvalue)


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> float:
    """Exact two-sided p-value that two judges are right equally often on the same rows.

    McNemar 1947; only rows where exactly one is right carry information. Rows of one group are
    taken as independent, which they are not: with groups, prefer ``paired_difference``.

    Args:
        correct_a: True where judge A was right. ``(N,)`` bool
        correct_b: True where judge B was right. ``(N,)`` bool
    """
    a, b = np.asarray(correct_a), np.asarray(correct_b)
    if a.shape != b.shape or a.dtype != bool or b.dtype != bool:
        raise ValueError(
            "expected two bool arrays of one shape (leave ties out), "
            f"got {a.dtype} {a.shape} and {b.dtype} {b.shape}"
        )
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return 1.0 if only_a + only_b == 0 else binomial_test(only_a, only_a + only_b)


def cohen_kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """Agreement of two raters beyond what their habits alone would give (Cohen 1960).

    Args:
        a: Category given by the first rater to each item. ``(N,)``
        b: Category given by the second rater. ``(N,)``

    Returns:
        1 for full agreement, 0 for chance, negative below chance; NaN where both raters only ever
        used one and the same category, since chance then explains everything.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"expected two ratings of the same items, got {len(a)} and {len(b)}")
    observed = sum(x == y for x, y in zip(a, b, strict=True)) / len(a)
    chance = sum(list(a).count(c) * list(b).count(c) for c in set(a) | set(b)) / len(a) ** 2
    return float("nan") if chance == 1 else (observed - chance) / (1 - chance)
