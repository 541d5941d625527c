"""A metric with its interval: read, written as text, and held against a level."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

State = Literal["good", "bad", "unclear", "missing"]


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric with its interval.

    Attributes:
        value: The estimate.
        low: Lower limit; NaN where there is none.
        high: Upper limit; NaN likewise.
    """

    value: float
    low: float
    high: float

    def against(self, level: float) -> State:
        """``good`` if all of the interval lies above a level, ``bad`` if all lies below."""
        if not math.isfinite(self.low):
            return "unclear"
        if self.low > level:
            return "good"
        return "bad" if self.high < level else "unclear"

    def number(self) -> str:
        """Write it as a number."""
        return f"{self.value:.3g}" + self._limits(1.0, ".3g")

    def percent(self) -> str:
        """Write it as a percentage."""
        return f"{100 * self.value:.1f} %" + self._limits(100.0, ".1f")

    def points(self) -> str:
        """Write a difference of shares in percentage points."""
        return f"{100 * self.value:+.1f} points" + self._limits(100.0, "+.1f")

    def _limits(self, scale: float, form: str) -> str:
        if not math.isfinite(self.low):
            return ""
        return f" [{scale * self.low:{form}}, {scale * self.high:{form}}]"


def measure(metrics: Mapping[str, float], name: str) -> Measure | None:
    """Return a metric with its interval; None where it was not measured."""
    if name not in metrics:
        return None
    low, high = (metrics.get(f"{name}_{side}", math.nan) for side in ("low", "high"))
    return Measure(metrics[name], low, high)
