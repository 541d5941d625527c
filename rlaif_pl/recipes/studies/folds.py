"""Which pairs are trained on and which are tested: folds by post, and subsets of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.intp]


def fold_of(groups: Sequence[str], folds: int, seed: int) -> Index:
    """Put each group into one of ``folds`` folds of like size, from 2 to their number. ``(N,)``.

    Every pair is tested once, by a model that saw none of its post (cross-fitting), so a small sample
    is used whole for testing.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    if not 2 <= folds <= len(names):
        raise ValueError(
            f"expected folds from 2 to the number of posts ({len(names)}), got {folds}; "
            "set folds accordingly or give more pairs"
        )
    place = np.random.default_rng(seed).permutation(len(names))
    assigned: Index = (place % folds)[member]
    return assigned


def draw_subset(rows: Index, groups: Sequence[str], size: int, seed: int) -> Index:
    """Draw whole posts at random until ``size`` pairs are there, then cut to ``size``; ascending.

    With one seed a smaller subset is part of a larger one, so that the curve's points share their luck.
    ``groups`` has the post of every pair of the study ``(N,)``, ``rows`` the pairs to draw from.
    """
    if size < 1:
        raise ValueError(f"expected subsets of at least 1 pair, got {size}")
    names, member = np.unique(np.asarray(groups)[rows], return_inverse=True)
    place = np.random.default_rng(seed).permutation(len(names))[member]
    order = np.argsort(place, kind="stable")
    chosen: Index = np.sort(rows[order[:size]])
    return chosen
