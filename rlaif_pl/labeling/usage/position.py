"""Position bias: does a labeler keep to a slot whatever stands in it?

A labeler that is asked in both orders shows two things: how often the same slot wins in both (share
and direction: arXiv 2309.00267, appendix B), and how far the two answers are apart as probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlaif_pl.statistics import Estimator, Interval, binomial_test, flat_metrics
from rlaif_pl.types import Preference

BINS = 10  # of equal width over the order gap's range, [0, 1]


@dataclass(frozen=True, slots=True)
class PositionBias:
    """How often a labeler keeps to a slot, and to which (arXiv 2309.00267, appendix B)."""

    same_slot: Interval  # share of pairs where the same slot won in both orders
    # among those, the share in which it was slot 1; NaN where slots are not recorded
    first_slot: Interval
    # two-sided binomial test of "slot 1 as often as slot 2", pairs taken as independent; NaN where
    # slots are not recorded
    p_value: float
    slots: tuple[int, int]  # pairs won in both orders by slot 1 and by slot 2
    position_gap: Interval  # mean of `|p(first) in order 1 - p(first) in order 2|`, in [0, 1]
    # pairs by order gap, in `BINS` bins of equal width; the last includes 1
    gap_counts: tuple[int, ...]

    def to_metrics(self, prefix: str) -> dict[str, float]:
        """Return flat numbers; what was not recorded is left out."""
        return flat_metrics(
            prefix,
            {
                "same_slot": self.same_slot,
                "same_slot_first": self.first_slot,
                "same_slot_1": self.slots[0],
                "same_slot_2": self.slots[1],
                "same_slot_p_value": self.p_value,
                "position_gap": self.position_gap,
            },
        )

    def text(self) -> str:
        """Return it in words."""
        if not math.isfinite(self.first_slot.value):
            return self.same_slot.percent()
        slot = 1 if self.first_slot.value >= 0.5 else 2
        share = max(self.first_slot.value, 1 - self.first_slot.value)
        chance = f"(p = {self.p_value:.2g})"
        return f"{self.same_slot.percent()}; of these slot {slot} in {share:.0%} {chance}"


def position_bias(
    rows: Sequence[Preference], draws: int = 2000, seed: int = 0
) -> PositionBias | None:
    """Measure position bias of labels asked for in both orders; None where there are none ("n/a")."""
    labeled = (row for row in rows if row.p_first is not None)
    asked = [row for row in labeled if row.provenance.same_slot is not None]
    if not asked:
        return None
    estimator = Estimator(draws, seed)
    same = [row for row in asked if row.provenance.same_slot]
    told = [row for row in same if row.provenance.slot is not None]
    first = sum(row.provenance.slot == 1 for row in told)
    gaps = [row for row in asked if row.provenance.position_gap is not None]
    values = np.array([row.provenance.position_gap for row in gaps], np.float64)
    places = np.minimum(np.floor(values * BINS + 1e-9), BINS - 1)  # 0.3 belongs to [0.3, 0.4)
    counts = np.bincount(places.astype(np.intp), minlength=BINS)
    return PositionBias(
        same_slot=estimator.share(
            [float(row.provenance.same_slot is True) for row in asked],
            [row.group for row in asked],
        ),
        first_slot=estimator.share(
            [float(row.provenance.slot == 1) for row in told], [row.group for row in told]
        ),
        p_value=binomial_test(first, len(told)) if told else math.nan,
        slots=(first, len(told) - first),
        position_gap=estimator.mean(values, [row.group for row in gaps]),
        gap_counts=tuple(int(count) for count in counts),
    )
