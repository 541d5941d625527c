"""What a run of labeling produced, in numbers to look at before training on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rlaif_pl.labeling.guard import LOW_MASS
from rlaif_pl.labeling.usage.cost import CostComparison, compare_costs
from rlaif_pl.labeling.usage.counts import OutcomeCounts, count_outcomes
from rlaif_pl.labeling.usage.position import PositionBias, position_bias
from rlaif_pl.statistics import Interval, flat_metrics, mean_by_group, proportion_by_group
from rlaif_pl.types import Preference

MOSTLY_OUTSIDE = 0.9  # mean probability outside the verdicts from which it is said
DECIDED = 0.1  # a label this far from one half counts as decided
LABELS_FILE = "labels.json"  # what of a summary is no flat number; the report reads it


@dataclass(frozen=True, slots=True)
class LabelSummary:
    """Facts about labeled pairs, each mean and share with its interval by prompt.

    A share without any pair to count is NaN and not exported.
    """

    counts: OutcomeCounts  # pairs by what became of them
    # mean of `p_first`; far from 0.5 where sides were not assigned at random
    mean_p_first: Interval
    decided: Interval  # share of labels with `|p_first - 0.5| > 0.1`
    # share of labels that favor the response with more characters, among those that favor one and
    # whose lengths differ: the bias to know before training
    longer_wins: Interval
    position: PositionBias | None  # position bias; None where the labels have no order
    # mean probability outside the verdict tokens, where there are any; also of pairs that have no
    # label because of it
    off_option_mass: Interval
    tie_mass: Interval  # mean probability of a tie among the verdicts, where ties are asked for
    cost: CostComparison  # what a label cost, beside what a person's would have
    tokens: int  # tokens read and written, failures included
    cost_usd: float  # money paid, failures included

    @property
    def pairs(self) -> int:
        """Rows given."""
        return self.counts.asked

    @property
    def labeled(self) -> int:
        """Rows with a usable label, ties included."""
        return self.counts.asked - self.counts.unusable

    @property
    def failures(self) -> dict[str, int]:
        """Rows without one, by reason."""
        return self.counts.reasons

    def to_metrics(self, prefix: str = "label") -> dict[str, float]:
        """Return flat metrics ``prefix/name``; what does not apply is left out."""
        names = ["pairs", "labeled", "tokens", "cost_usd", "mean_p_first", "decided"]
        names += ["longer_wins", "off_option_mass", "tie_mass"]
        metrics = flat_metrics(prefix, {name: getattr(self, name) for name in names})
        metrics[f"{prefix}/failed"] = self.counts.unusable
        metrics |= {f"{prefix}/failed_{reason}": n for reason, n in self.failures.items()}
        metrics |= self.counts.to_metrics(f"{prefix}/count")
        if self.position is not None:
            metrics |= self.position.to_metrics(prefix)
        metrics |= self.cost.to_metrics(f"{prefix}/cost")
        return {name: float(value) for name, value in metrics.items()}

    def notes(self) -> list[str]:
        """Return sentences on what to see to before training on the labels; mostly none."""
        mass, low = self.off_option_mass.value, self.failures.get(LOW_MASS, 0)
        if not (low or mass > MOSTLY_OUTSIDE):
            return []
        left_out = f"; {low} of {self.pairs} pairs have no label for it ({LOW_MASS})" * bool(low)
        return [
            f"warning: on average {mass:.2%} of the probability lies outside the verdict tokens"
            f"{left_out}. The model would rather write something else: see docs/labeling.md, Verdicts "
            "without probability"
        ]

    def to_json(self) -> dict[str, object]:
        """Return what is no flat number, as ``labels.json`` holds it."""
        gaps = list(self.position.gap_counts) if self.position else []
        return {"order_gap_counts": gaps, "failures": self.failures}


def summarize_labels(pairs: Sequence[Preference]) -> LabelSummary:
    """Count and average the outcome of labeling; see ``LabelSummary``."""
    usable = [pair for pair in pairs if pair.p_first is not None]

    def share(
        of: Callable[[Preference], float | None],
        estimate: Estimate,
        rows: Sequence[Preference] = usable,
    ) -> Interval:
        known = [(value, pair.group) for pair in rows if (value := of(pair)) is not None]
        values = np.array([value for value, _ in known], np.float64)
        return estimate(values, [group for _, group in known])

    return LabelSummary(
        counts=count_outcomes(pairs),
        mean_p_first=share(lambda pair: pair.p_first, mean_by_group),
        decided=share(_is_decided, proportion_by_group),
        longer_wins=share(_longer_wins, proportion_by_group),
        position=position_bias(pairs),
        off_option_mass=share(lambda pair: pair.provenance.off_option_mass, mean_by_group, pairs),
        tie_mass=share(lambda pair: pair.provenance.tie_mass, mean_by_group),
        cost=compare_costs(pairs),
        tokens=sum(pair.provenance.tokens for pair in pairs),
        cost_usd=math.fsum(pair.provenance.cost_usd for pair in pairs),
    )


Estimate = Callable[[np.ndarray, Sequence[str]], Interval]


def _is_decided(pair: Preference) -> float | None:
    """1 where the label is clearly away from one half."""
    return None if pair.p_first is None else float(abs(pair.p_first - 0.5) > DECIDED)


def _longer_wins(pair: Preference) -> float | None:
    """1 where the label favors the longer response; None where there is no such thing."""
    longer = len(pair.first) - len(pair.second)
    lead = (pair.p_first if pair.p_first is not None else 0.5) - 0.5
    return None if longer == 0 or lead == 0 else float((longer > 0) == (lead > 0))
