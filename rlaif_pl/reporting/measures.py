"""A metric with its interval: read, held against a level and written as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from rlaif_pl.statistics import Interval

State = Literal["good", "bad", "unclear", "missing"]


def state_of(found: Interval, level: float) -> State:
    """``good`` if all of an interval lies above a level, ``bad`` if all lies below."""
    if not math.isfinite(found.low):
        return "unclear"
    if found.low > level:
        return "good"
    return "bad" if found.high < level else "unclear"


def points(found: Interval) -> str:
    """Write a difference of shares in percentage points."""
    return found.text("+.1f", 100, " points")


def measure(metrics: Mapping[str, float], name: str) -> Interval | None:
    """Return a metric with its interval; None where it was not measured."""
    if name not in metrics:
        return None
    low, high = (metrics.get(f"{name}_{side}", math.nan) for side in ("low", "high"))
    return Interval(metrics[name], low, high, int(metrics.get(f"{name}_n", 0)))
