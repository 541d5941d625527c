"""What a run of labeling produced, in numbers to look at before training on it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlaif_pl.types import Preference

DECIDED = 0.1  # a label this far from one half counts as decided


@dataclass(frozen=True, slots=True)
class LabelSummary:
    """Facts about labeled pairs. A share without any pair to count is nan and not exported.

    Attributes:
        pairs: Rows given.
        labeled: Rows with a usable label.
        failures: Rows without one, by reason.
        mean_p_first: Mean of ``p_first``; far from 0.5 where sides were not assigned at random.
        decided: Share of labels with ``|p_first - 0.5| > 0.1``.
        longer_wins: Share of labels that favor the response with more characters, among those that
            favor one and whose lengths differ: the bias to know before training.
        same_slot: Share won by the same slot in both orders, where there are orders.
        order_gap: Mean difference of ``p_first`` between the orders, where there are orders.
        outside_mass: Mean probability outside the verdict tokens, where there are any.
        tokens: Tokens read and written, failures included.
        cost_usd: Money paid, failures included.
    """

    pairs: int
    labeled: int
    failures: dict[str, int]
    mean_p_first: float
    decided: float
    longer_wins: float
    same_slot: float
    order_gap: float
    outside_mass: float
    tokens: int
    cost_usd: float

    def to_metrics(self, prefix: str = "label") -> dict[str, float]:
        """Return flat metrics ``prefix/name``; what does not apply is left out."""
        metrics = {
            "pairs": self.pairs,
            "labeled": self.labeled,
            "failed": self.pairs - self.labeled,
            "mean_p_first": self.mean_p_first,
            "decided": self.decided,
            "longer_wins": self.longer_wins,
            "same_slot": self.same_slot,
            "order_gap": self.order_gap,
            "outside_mass": self.outside_mass,
            "tokens": self.tokens,
            "cost_usd": self.cost_usd,
        }
        metrics |= {f"failed_{reason}": count for reason, count in self.failures.items()}
        return {
            f"{prefix}/{name}": float(value)
            for name, value in metrics.items()
            if not math.isnan(value)
        }


def summarize_labels(pairs: Sequence[Preference]) -> LabelSummary:
    """Count and average the outcome of labeling; see ``LabelSummary``."""
    usable = [pair for pair in pairs if pair.p_first is not None]
    failed = (pair.provenance.failure or "unlabeled" for pair in pairs if pair.p_first is None)
    notes = [pair.provenance for pair in usable]
    return LabelSummary(
        pairs=len(pairs),
        labeled=len(usable),
        failures=dict(sorted(Counter(failed).items())),
        mean_p_first=_mean(pair.p_first for pair in usable),
        decided=_mean(abs((pair.p_first or 0.0) - 0.5) > DECIDED for pair in usable),
        longer_wins=_mean(_longer_wins(pair) for pair in usable),
        same_slot=_mean(note.same_slot for note in notes),
        order_gap=_mean(note.order_gap for note in notes),
        outside_mass=_mean(note.outside_mass for note in notes),
        tokens=sum(pair.provenance.tokens for pair in pairs),
        cost_usd=math.fsum(pair.provenance.cost_usd for pair in pairs),
    )


def _longer_wins(pair: Preference) -> bool | None:
    """Whether the label favors the longer response; None where there is no such thing."""
    longer = len(pair.first) - len(pair.second)
    lead = (pair.p_first if pair.p_first is not None else 0.5) - 0.5
    return None if longer == 0 or lead == 0 else (longer > 0) == (lead > 0)


def _mean(values: Iterable[float | bool | None]) -> float:
    """Mean of what is not None; nan of nothing."""
    known = [float(value) for value in values if value is not None]
    return math.fsum(known) / len(known) if known else math.nan
