"""How far a labeler agrees with people, and the gate before training on its labels.

Alignment is the share of pairs on which the labeler favors people's side (arXiv 2309.00267, section
2.3). A labeler that only measures length may look good, so that rule stands beside it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from rich.console import Console

from rlaif_pl.data.failures import advice, causes
from rlaif_pl.evaluation.pairs import (
    Pairs,
    blinded,
    correctness,
    decided,
    judge_counts,
    judge_metrics,
    judges_named,
    lengths_of,
    p_first_of,
    side,
    stripped,
)
from rlaif_pl.labeling.usage import summary
from rlaif_pl.labeling.usage.projection import counted_replies
from rlaif_pl.labeling.usage.spending import CostComparison, Price, compare_costs
from rlaif_pl.statistics import Estimator, Interval, calibration, flat_metrics
from rlaif_pl.tables import Cell, Table
from rlaif_pl.text import judge_name
from rlaif_pl.types import Labeler

TRY_ANOTHER = (
    "Try a larger labeler; the other strategy (likelihood for models that cannot follow a "
    "labeling prompt, pairwise for those that can); another prompt; or check that the gold pairs "
    "are of the kind you train on."
)
TRY_AGAINST_BIAS = (
    "Labels that follow the slot carry little about the responses: try a larger labeler, the model's "
    "chat template, a chain of thought, or a strategy without slots (likelihood, score)."
)
TRY_AGAINST_FAILURES = (
    "Look at the reasons: shorten what is too long or raise the context, ask a model that does not "
    "refuse, read logprobs (pairwise) in place of decoded verdicts (free_form), check the server."
)
GO_ON = "To go on regardless, set the gate's action to 'warn'."


@dataclass(frozen=True, slots=True)
class AlignmentReport:
    """A labeler measured against gold verdicts."""

    labeler: str  # fingerprint of the labeler
    judged: Mapping[str, int]  # pairs by who gave the gold verdict (a key of `pairs.NAMES`)
    alignment: Interval  # share of pairs with the same favored side; a labeler's tie counts half
    length_baseline: Interval  # the same for "more characters win"; equal lengths count half
    gain_over_length: Interval  # paired difference of the two, over all usable pairs
    length_matched: Interval  # alignment where the shorter has 80 % of the longer one's characters
    position: summary.PositionBias | None  # None where the strategy has no order ("n/a")
    ece: float  # expected calibration error (10 bins of equal mass, favored side first)
    brier: float  # mean squared difference of `p_first` and the gold verdict
    mean_tokens: float  # tokens read and written a label
    undecided: int  # gold pairs left out because their verdict is a tie or missing
    counts: summary.OutcomeCounts  # decided pairs by what became of them
    cost: CostComparison  # what a label cost, beside what a person's would have

    def render(self, console: Console) -> None:
        """Print the report as a table."""
        shares = {
            "alignment": self.alignment,
            "longer response wins": self.length_baseline,
            "gain over length": self.gain_over_length,
            "alignment at similar length": self.length_matched,
        }
        position, cost = self.position, self.cost
        others = {"calibration error / Brier": f"{self.ece:.3f} / {self.brier:.3f}"}
        others["same slot in both orders"] = position.text() if position else "n/a"
        if position is not None:
            others["gap between the orders"] = position.position_gap.number()
            others["    pairs by gap, in tenths"] = " ".join(map(str, position.gap_counts))
        if math.isfinite(cost.times_cheaper):
            others["AI label, $ a pair"] = cost.ai.number(".2g")
            others["person's label, $ a pair"] = cost.human.number(".2g")
            others["times cheaper"] = f"{cost.times_cheaper:,.1f}"
        others["tokens a label"] = f"{self.mean_tokens:.0f}"
        failures = ", ".join(f"{kind} {count}" for kind, count in self.counts.reasons.items())
        others["left out"] = f"undecided {self.undecided}; failed: {failures or 'none'}"
        others["ties (count half)"] = str(self.counts.tied)
        rows: list[list[Cell]] = [[name, x.percent(), x.n] for name, x in shares.items()]
        rows += [[name, text, ""] for name, text in others.items()]
        title = f"Alignment of {judge_name(self.labeler)} with {judges_named(self.judged)}"
        console.print(Table(title, ["measure", "value [interval]", "pairs"], rows).rich())

    def to_metrics(self, prefix: str = "labeler") -> dict[str, float]:
        """Return flat numbers; what was not measured (no pair of similar length) is left out."""
        names = ["alignment", "length_baseline", "gain_over_length", "length_matched"]
        names += ["undecided", "ece", "brier", "mean_tokens"]
        values = {name: getattr(self, name) for name in names}
        values |= {"n": self.alignment.n, "length_matched_n": self.length_matched.n}
        values |= {"failures": sum(self.counts.reasons.values())}
        values |= {f"failures_{kind}": count for kind, count in self.counts.reasons.items()}
        metrics = flat_metrics(prefix, values) | judge_metrics(self.judged, prefix)
        if self.position is not None:
            metrics |= self.position.to_metrics(prefix)
        metrics |= self.counts.to_metrics(f"{prefix}/count")
        return metrics | self.cost.to_metrics(f"{prefix}/cost")


def measure_alignment(
    labeler: Labeler,
    gold: Pairs,
    *,
    prices: Price | None = None,
    estimator: Estimator = Estimator(),
) -> AlignmentReport:
    """Label people's pairs afresh and compare.

    The labeler never sees the verdict; surplus symbols at the end of a response are removed first.
    Undecided pairs are left out and counted. ``prices`` are the labeler's, for the cost comparison;
    None takes what was charged. ``ValueError``: no pair is decided or none could be labeled.
    """
    kept = decided(gold)  # nothing is spent on pairs that cannot be compared
    blind = blinded(gold[i] for i in kept)
    labeled = list(gold)
    with counted_replies(labeler, f"labeling {len(blind)} pairs"):
        labels = labeler.label(blind)
    for i, label in zip(kept, labels, strict=True):
        labeled[i] = label
    report = alignment_of(labeled, gold, prices=prices, estimator=estimator)
    return replace(report, labeler=labeler.fingerprint)


def alignment_of(
    labeled: Pairs, gold: Pairs, *, prices: Price | None = None, estimator: Estimator = Estimator()
) -> AlignmentReport:
    """Compare labels that exist with verdicts, row by row; the rest as of ``measure_alignment``."""
    if len(labeled) != len(gold):
        raise ValueError(f"expected a label per gold pair, got {len(labeled)} for {len(gold)}")
    kept = decided(gold)
    asked = [labeled[i] for i in kept]
    counts, undecided = summary.count_outcomes(asked), len(gold) - len(kept)
    usable = [i for i in kept if labeled[i].p_first is not None]
    if not usable:
        rest = f"{undecided} of {len(gold)} gold pairs are undecided"
        if not kept:
            raise ValueError(f"expected gold pairs with a verdict that is no tie, got none: {rest}")
        reasons = counts.reasons
        raise ValueError(
            f"the labeler gave no usable label: {causes(reasons)}; {rest}. {advice(reasons)}"
        )
    rows, people = [labeled[i] for i in usable], [gold[i] for i in usable]
    truth, judged = p_first_of(people), p_first_of(rows)
    correct = correctness(side(judged - 0.5), side(truth - 0.5))
    first, second = lengths_of([stripped(pair) for pair in people])
    by_length = correctness(side(first - second), side(truth - 0.5))
    groups = np.unique([pair.group for pair in people], return_inverse=True)[1]
    alike = 5 * np.minimum(first, second) >= 4 * np.maximum(first, second)
    return AlignmentReport(
        labeler=rows[0].provenance.labeler or "unknown",
        judged=judge_counts(people),
        alignment=estimator.share(correct, groups),
        length_baseline=estimator.share(by_length, groups),
        gain_over_length=estimator.share_difference(correct, by_length, groups),
        length_matched=estimator.share(correct[alike], groups[alike]),
        position=summary.position_bias(rows, estimator),
        ece=calibration.expected_calibration_error(*calibration.fold(judged, truth)),
        brier=calibration.brier(judged, truth),
        mean_tokens=float(np.mean([row.provenance.tokens for row in rows])),
        undecided=undecided,
        counts=counts,
        cost=compare_costs(asked, prices, estimator),
    )


class LabelerGateError(RuntimeError):
    """The labeler agrees too little with the gold verdicts to train on its labels."""


class LabelerGateWarning(UserWarning):
    """As ``LabelerGateError``, where the run was told to go on."""


@dataclass(frozen=True)
class QualityThresholds:
    """What a run asks of its labeler, and what follows where it falls short.

    By default estimates are compared, not their limits, so that a small gold set does not stop a good
    labeler; the message shows the interval.

    Attributes:
        action: ``warn``, ``stop`` (an error), or ``off``: nothing is asked.
        min_alignment: Least share of agreement with people, in [0, 1].
        min_gain: Least gain over the length rule, in [-1, 1]; None does not ask for one.
        max_same_slot: Greatest share of pairs won by the same slot in both orders; None does not ask.
            Labelers without orders always pass.
        max_failures: Greatest share of pairs without a label; None does not ask.
        confident: Hold the limits of the intervals to the gate in place of the estimates, so that luck
            with few pairs does not pass. An interval that does not exist fails.
    """

    action: Literal["warn", "stop", "off"] = "warn"
    min_alignment: float = 0.6
    min_gain: float | None = 0.0
    max_same_slot: float | None = 0.8
    max_failures: float | None = 0.1
    confident: bool = False

    def __post_init__(self) -> None:
        if self.action not in ("warn", "stop", "off"):
            raise ValueError(f"expected gate.action 'warn', 'stop' or 'off', got {self.action!r}")
        if not 0.0 <= self.min_alignment <= 1.0:
            raise ValueError(f"expected gate.min_alignment in [0, 1], got {self.min_alignment}")
        for name, low in (("min_gain", -1.0), ("max_same_slot", 0.0), ("max_failures", 0.0)):
            value = getattr(self, name)
            if value is not None and not low <= value <= 1.0:
                raise ValueError(
                    f"expected gate.{name} in [{low:g}, 1], or null not to ask, got {value}"
                )

    def check(self, report: AlignmentReport) -> list[str]:
        """Return what fell short, a sentence each. ``LabelerGateError``: if ``action`` is stop."""
        if self.action == "off":
            return []
        faults = list(self._faults(report))
        if faults:
            advice = " ".join(dict.fromkeys(advice for _, advice in faults))
            said = "; ".join(text for text, _ in faults)
            message = f"The labeler {report.labeler} falls short: {said}. {advice} {GO_ON}"
            if self.action == "stop":
                raise LabelerGateError(message)
            warnings.warn(message, LabelerGateWarning, stacklevel=2)
        return [text for text, _ in faults]

    def _faults(self, report: AlignmentReport) -> Iterator[tuple[str, str]]:
        """Yield what was measured and what was expected, and what to try."""
        sure = " with all of its interval" * self.confident
        least, most = ("low", "high") if self.confident else ("value", "value")
        alignment, gain, position = report.alignment, report.gain_over_length, report.position
        if not getattr(alignment, least) >= self.min_alignment:
            said = f"alignment with {judges_named(report.judged)} is {alignment.percent()} on"
            wanted = f"expected at least {self.min_alignment:.1%}{sure}"
            yield f"{said} {alignment.n} pairs, {wanted}", TRY_ANOTHER
        if self.min_gain is not None and not getattr(gain, least) >= self.min_gain:
            said = f"gain over 'the longer response wins' is {gain.percent()} (points)"
            yield f"{said}, expected at least {self.min_gain:.1%}{sure}", TRY_ANOTHER
        slot = self.max_same_slot
        if slot is not None and position and not getattr(position.same_slot, most) <= slot:
            said = f"the same slot won in both orders in {position.text()}"
            yield f"{said}, expected at most {slot:.1%}{sure}", TRY_AGAINST_BIAS
        share = report.counts.unusable_share  # NaN without pairs
        if self.max_failures is not None and share > self.max_failures:
            reasons = ", ".join(f"{reason} {n}" for reason, n in report.counts.reasons.items())
            said = f"{share:.1%} of {report.counts.asked} pairs have no label ({reasons})"
            yield f"{said}, expected at most {self.max_failures:.1%}", TRY_AGAINST_FAILURES
