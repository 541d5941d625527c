"""Which samples ReST learns from: thresholds on rewards that rise with every Improve step.

Reinforced Self-Training (Gulcehre et al. 2023, arXiv 2308.08998), section 3: an Improve step fits the
policy to ``F(x, y) = 1[R(x, y) > tau]`` of the growing set. Its three schedules: one threshold on
rewards scaled to 0..1, a percentile of each prompt's own rewards, and
``gamma * max + (1 - gamma) * mean`` of them. The last two never leave a prompt without a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Schedule = Literal["normalized", "percentile", "max_mean"]
GREATEST: dict[Schedule, float] = {"normalized": 1.0, "percentile": 100.0, "max_mean": 1.0}


def check_levels(by: Schedule, levels: Sequence[float]) -> None:
    """Refuse a schedule that is empty, out of range or falling.

    Raises:
        ValueError: As said; the message names the level.
    """
    if by not in GREATEST:
        raise ValueError(f"expected by to be one of {', '.join(GREATEST)}, got {by!r}")
    if not levels:
        raise ValueError("expected a level for each Improve step, got none")
    for level in levels:
        if not 0 <= level <= GREATEST[by]:
            raise ValueError(f"expected {by} levels in [0, {GREATEST[by]:g}], got {level}")
    if list(levels) != sorted(levels):
        raise ValueError(f"expected levels that rise from step to step, got {list(levels)}")


def scaled(rewards: ArrayLike) -> NDArray[np.float64]:
    """Scale rewards to 0 (the least) .. 1 (the greatest); all 1 where they are equal. ``(N,)``."""
    values = np.asarray(rewards, np.float64)
    least, greatest = values.min(), values.max()
    if least == greatest:
        return np.ones_like(values)
    return (values - least) / (greatest - least)


def passes(
    rewards: ArrayLike, groups: Sequence[str], by: Schedule, level: float
) -> NDArray[np.bool_]:
    """Tell which samples reach the threshold of an Improve step.

    Reaching it is enough, where the paper asks for more than it, so that level 0 of ``normalized``
    is all data as in its tables and the best sample of a prompt always passes the other two.

    Args:
        rewards: Rewards of samples and demonstrations. ``(N,)``
        groups: Prompt of each. ``(N,)``
        by: ``normalized``: rewards of the whole set scaled to 0..1 reach ``level``; ``percentile``:
            a reward reaches that percentile (0..100) of its prompt's; ``max_mean``: it reaches
            ``level * max + (1 - level) * mean`` of its prompt's.
        level: Threshold in the units of ``by``.

    Returns:
        True where a sample passes. ``(N,)``

    Raises:
        ValueError: There is no sample, a reward is not finite, or the level is out of range.
    """
    values = np.asarray(rewards, np.float64)
    check_levels(by, [level])
    if not len(values) or len(values) != len(groups):
        raise ValueError(f"expected a prompt for each reward, got {len(values)} and {len(groups)}")
    if not np.isfinite(values).all():
        raise ValueError("expected finite rewards; look at the reward of the first that is not")
    if by == "normalized":
        return scaled(values) >= level
    thresholds = np.empty_like(values)
    names = np.asarray(groups)
    for name in dict.fromkeys(groups):
        rows = names == name
        thresholds[rows] = _threshold(values[rows], by, level)
    return values >= thresholds


def _threshold(own: NDArray[np.float64], by: Schedule, level: float) -> float:
    """Return the threshold of one prompt, at most its best reward."""
    if by == "percentile":
        wanted = float(np.percentile(own, level))
    else:
        wanted = float(own.mean() + level * (own.max() - own.mean()))
    return min(wanted, float(own.max()))  # sums are rounded; the best must pass
