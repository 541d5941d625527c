"""What became of labeled pairs, whether a slot was kept to, and what is to be seen before training.

Outcomes by kind: nothing is lost, nothing is guessed. Position bias: a labeler that is asked in both
orders shows how often the same slot wins in both (share and direction: arXiv 2309.00267, appendix B),
and how far the two answers are apart as probabilities.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from rlaif_pl.labeling.outcome import LOW_MASS
from rlaif_pl.labeling.usage.spending import CostComparison, compare_costs
from rlaif_pl.statistics import Estimator, Interval, binomial_test, flat_metrics
from rlaif_pl.types import Preference

Kind = Literal["malformed", "refused", "too_long", "failed"]
TIE = 1e-9  # a label this near to one half favors neither side
# An answer came, but no verdict could be read from it.
UNREADABLE = (
    "malformed", "empty", "empty_rationale", "both", "neither", "nonfinite",
    "missing_logprob", "split_option", "low_option_mass", "unclosed_thought",
)  # fmt: skip


def kind_of(failure: str | None) -> Kind:
    """Return the kind of a failure; what is not known here counts as a failed call."""
    if failure == "refused":
        return "refused"
    if failure == "too_long":
        return "too_long"
    return "malformed" if failure in UNREADABLE else "failed"


@dataclass(frozen=True, slots=True)
class OutcomeCounts:
    """Pairs by what became of them; each is in exactly one of the counts but the first."""

    asked: int  # all pairs
    decided: int  # with a label that favors a side
    # with a label of one half. A tie is an answer: it stays a label, trains as the soft target 0.5
    # (which pulls two rewards together), counts half in alignment and is left out where a format has
    # no place for it (chosen/rejected)
    tied: int
    # without a label: no verdict could be read; the model declined; the question did not fit; the
    # call had no answer (timeouts, errors of the server) or was never made
    malformed: int
    refused: int
    too_long: int
    failed: int
    reasons: dict[str, int] = field(default_factory=dict)  # of pairs without a label, as recorded

    @property
    def unusable(self) -> int:
        """Pairs without a label, which are kept out of training."""
        return self.malformed + self.refused + self.too_long + self.failed

    @property
    def unusable_share(self) -> float:
        """Their share of all pairs, in [0, 1]; NaN of no pairs."""
        return self.unusable / self.asked if self.asked else math.nan

    def to_metrics(self, prefix: str) -> dict[str, float]:
        """Return flat counts."""
        kinds = ("asked", "decided", "tied", *get_args(Kind))
        return {f"{prefix}/{kind}": float(getattr(self, kind)) for kind in kinds}

    def text(self) -> str:
        """Name the kinds that occurred, for example ``malformed 3, tied 1``; "none" without any."""
        kinds = (*get_args(Kind), "tied")
        named = [f"{kind} {getattr(self, kind)}" for kind in kinds if getattr(self, kind)]
        return ", ".join(named) or "none"


def count_outcomes(rows: Sequence[Preference]) -> OutcomeCounts:
    """Count pairs that were given to a labeler by what became of them."""
    labels = [row.p_first for row in rows if row.p_first is not None]
    tied = sum(abs(p - 0.5) < TIE for p in labels)
    missing = [row.provenance.failure or "unlabeled" for row in rows if row.p_first is None]
    kinds = Counter(kind_of(reason) for reason in missing)
    return OutcomeCounts(
        asked=len(rows),
        decided=len(labels) - tied,
        tied=tied,
        **{kind: kinds[kind] for kind in get_args(Kind)},
        reasons=dict(sorted(Counter(missing).items())),
    )


def _share(
    rows: Sequence[Preference],
    of: Callable[[Preference], float | None],
    estimator: Estimator = Estimator(),
) -> Interval:
    """Mean of a number in [0, 1] over the rows that have it."""
    known = [(value, row.group) for row in rows if (value := of(row)) is not None]
    values = np.clip([value for value, _ in known], 0, 1)  # a mass may miss them by rounding
    return estimator.share(values, [group for _, group in known])


BINS = 10  # of equal width over the order gap's range, [0, 1]


@dataclass(frozen=True, slots=True)
class PositionBias:
    """How often a labeler keeps to a slot, and to which (arXiv 2309.00267, appendix B)."""

    same_slot: Interval  # share of pairs where the same slot won in both orders
    first_slot: Interval  # among those, the share of slot 1; NaN where slots are not recorded
    # two-sided binomial test of "slot 1 as often as slot 2", pairs taken as independent; NaN as above
    p_value: float
    slots: tuple[int, int]  # pairs won in both orders by slot 1 and by slot 2
    position_gap: Interval  # mean of `|p(first) in order 1 - p(first) in order 2|`, in [0, 1]
    gap_counts: tuple[int, ...]  # pairs by that gap in `BINS` bins; the last includes 1

    def to_metrics(self, prefix: str) -> dict[str, float]:
        """Return flat numbers; what was not recorded is left out."""
        first, second = self.slots
        shares = {"same_slot": self.same_slot, "same_slot_first": self.first_slot}
        slots = {"same_slot_1": first, "same_slot_2": second, "same_slot_p_value": self.p_value}
        return flat_metrics(prefix, {**shares, **slots, "position_gap": self.position_gap})

    def text(self) -> str:
        """Return it in words."""
        if not math.isfinite(self.first_slot.value):
            return self.same_slot.percent()
        slot = 1 if self.first_slot.value >= 0.5 else 2
        share = max(self.first_slot.value, 1 - self.first_slot.value)
        chance = f"(p = {self.p_value:.2g})"
        return f"{self.same_slot.percent()}; of these slot {slot} in {share:.0%} {chance}"


def position_bias(
    rows: Sequence[Preference], estimator: Estimator = Estimator()
) -> PositionBias | None:
    """Measure position bias of labels asked for in both orders; None where there are none ("n/a")."""
    labeled = (row for row in rows if row.p_first is not None)
    asked = [row for row in labeled if row.provenance.same_slot is not None]
    if not asked:
        return None
    same = [row for row in asked if row.provenance.same_slot]
    told = [row for row in same if row.provenance.slot is not None]
    first = sum(row.provenance.slot == 1 for row in told)
    gaps = [row.provenance.position_gap for row in asked]
    values = np.array([gap for gap in gaps if gap is not None], np.float64)
    places = np.minimum(np.floor(values * BINS + 1e-9), BINS - 1)  # 0.3 belongs to [0.3, 0.4)
    counts = np.bincount(places.astype(np.intp), minlength=BINS)
    return PositionBias(
        same_slot=_share(asked, lambda row: row.provenance.same_slot is True, estimator),
        first_slot=_share(told, lambda row: row.provenance.slot == 1, estimator),
        p_value=binomial_test(first, len(told)) if told else math.nan,
        slots=(first, len(told) - first),
        position_gap=_share(asked, lambda row: row.provenance.position_gap, estimator),
        gap_counts=tuple(int(count) for count in counts),
    )


MOSTLY_OUTSIDE = 0.9  # mean probability outside the verdicts from which it is said
DECIDED = 0.1  # a label this far from one half counts as decided
LABELS_FILE = "labels.json"  # what of a summary is no flat number; the report reads it


@dataclass(frozen=True, slots=True)
class LabelSummary:
    """Facts about labeled pairs, each mean and share with its interval by prompt.

    A share without any pair to count is NaN and not exported.
    """

    counts: OutcomeCounts
    mean_p_first: Interval  # far from 0.5 where sides were not assigned at random
    decided: Interval  # share of labels with `|p_first - 0.5| > 0.1`
    # share of labels that favor the response with more characters, among those that favor one and
    # whose lengths differ: the bias to know before training
    longer_wins: Interval
    position: PositionBias | None  # None where the labels have no order
    # mean probability outside the verdict tokens, where there are any; also of pairs that have no
    # label because of it
    off_option_mass: Interval
    tie_mass: Interval  # mean probability of a tie among the verdicts, where ties are asked for
    cost: CostComparison
    tokens: int  # tokens read and written, failures included
    cost_usd: float  # money paid, failures included

    def to_metrics(self, prefix: str = "label") -> dict[str, float]:
        """Return flat metrics ``prefix/name``; what does not apply is left out."""
        names = ["tokens", "cost_usd", "mean_p_first", "decided"]
        names += ["longer_wins", "off_option_mass", "tie_mass"]
        counts, missing = self.counts, self.counts.unusable
        numbers = {"pairs": counts.asked, "labeled": counts.asked - missing, "failed": missing}
        numbers |= {f"failed_{reason}": n for reason, n in counts.reasons.items()}
        metrics = flat_metrics(prefix, numbers | {name: getattr(self, name) for name in names})
        metrics |= counts.to_metrics(f"{prefix}/count") | self.cost.to_metrics(f"{prefix}/cost")
        if self.position is not None:
            metrics |= self.position.to_metrics(prefix)
        return {name: float(value) for name, value in metrics.items()}

    def notes(self) -> list[str]:
        """Return sentences on what to see to before training on the labels; mostly none."""
        mass, low = self.off_option_mass.value, self.counts.reasons.get(LOW_MASS, 0)
        if not (low or mass > MOSTLY_OUTSIDE):
            return []
        left_out = ""
        if low:
            left_out = f"; {low} of {self.counts.asked} pairs have no label for it ({LOW_MASS})"
        return [
            f"warning: on average {mass:.2%} of the probability lies outside the verdict tokens"
            f"{left_out}. The model would rather write something else: see docs/labeling.md, Verdicts "
            "without probability"
        ]

    def to_json(self) -> dict[str, object]:
        """Return what is no flat number, as ``labels.json`` holds it."""
        gaps = list(self.position.gap_counts) if self.position else []
        return {"order_gap_counts": gaps, "failures": self.counts.reasons}


def summarize_labels(pairs: Sequence[Preference]) -> LabelSummary:
    """Count and average the outcome of labeling; see ``LabelSummary``."""
    usable = [pair for pair in pairs if pair.p_first is not None]
    return LabelSummary(
        counts=count_outcomes(pairs),
        mean_p_first=_share(usable, label_of),
        decided=_share(usable, lambda pair: abs(label_of(pair) - 0.5) > DECIDED),
        longer_wins=_share(usable, _longer_wins),
        position=position_bias(pairs),
        off_option_mass=_share(pairs, lambda pair: pair.provenance.off_option_mass),
        tie_mass=_share(usable, lambda pair: pair.provenance.tie_mass),
        cost=compare_costs(pairs),
        tokens=sum(pair.provenance.tokens for pair in pairs),
        cost_usd=math.fsum(pair.provenance.cost_usd for pair in pairs),
    )


def label_of(pair: Preference) -> float:
    """Label of a pair; one half where it has none."""
    return 0.5 if pair.p_first is None else pair.p_first


def _longer_wins(pair: Preference) -> float | None:
    """1 where the label favors the longer response; None where there is no such thing."""
    longer = len(pair.first) - len(pair.second)
    lead = label_of(pair) - 0.5
    return None if longer == 0 or lead == 0 else float((longer > 0) == (lead > 0))
