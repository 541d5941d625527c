"""Stop, or at least warn, before training on labels that do not agree with gold verdicts."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

from rlaif_pl.evaluation.agreement.report import AlignmentReport
from rlaif_pl.evaluation.gold import judges_named
from rlaif_pl.statistics import Interval

Action = Literal["warn", "stop"]

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


class LabelerGateError(RuntimeError):
    """The labeler agrees too little with the gold verdicts to train on its labels."""


class LabelerGateWarning(UserWarning):
    """As ``LabelerGateError``, where the run was told to go on."""


@dataclass(frozen=True)
class QualityThresholds:
    """What a run asks of its labeler, and what follows where it falls short; see ``check_gate``.

    Attributes:
        action: ``warn``, ``stop`` (an error), or ``off``: nothing is asked.
        min_alignment: Least share of agreement with people, in [0, 1].
        min_gain: Least gain over the length rule, in [-1, 1]; None does not ask for one.
        max_same_slot: Greatest share of pairs won by the same slot in both orders; None does not ask.
        max_failures: Greatest share of pairs without a label; None does not ask.
        confident: Hold the limits of the intervals to the gate in place of the estimates.
    """

    action: Literal["warn", "stop", "off"] = "warn"
    min_alignment: float = 0.6
    min_gain: float | None = 0.0
    max_same_slot: float | None = 0.8
    max_failures: float | None = 0.1
    confident: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_alignment <= 1.0:
            raise ValueError(f"expected gate.min_alignment in [0, 1], got {self.min_alignment}")
        for name, low in (("min_gain", -1.0), ("max_same_slot", 0.0), ("max_failures", 0.0)):
            value = getattr(self, name)
            if value is not None and not low <= value <= 1.0:
                raise ValueError(
                    f"expected gate.{name} in [{low:g}, 1], or null not to ask, got {value}"
                )

    def check(self, report: AlignmentReport) -> list[str]:
        """Hold a report to these limits; see ``check_gate``."""
        if self.action == "off":
            return []
        return check_gate(
            report,
            self.min_alignment,
            self.min_gain,
            self.action,
            max_same_slot=self.max_same_slot,
            max_failures=self.max_failures,
            confident=self.confident,
        )


@dataclass(frozen=True, slots=True)
class Fault:
    """What fell short."""

    text: str  # what was measured and what was expected
    advice: str  # what to try


def check_gate(
    report: AlignmentReport,
    min_alignment: float = 0.6,
    min_gain: float | None = 0.0,
    action: Action = "warn",
    *,
    max_same_slot: float | None = 0.8,
    max_failures: float | None = 0.1,
    confident: bool = False,
) -> list[str]:
    """Compare a report with the least a run accepts.

    By default estimates are compared, not their limits, so that a small gold set does not stop a
    good labeler; the message shows the interval.

    Args:
        report: Measurement of the labeler.
        min_alignment: Least share of agreement, in [0, 1].
        min_gain: Least gain over the length rule, in [-1, 1]; None does not ask for one.
        action: ``stop`` raises, ``warn`` warns.
        max_same_slot: Greatest share of pairs in which the same slot may win in both orders, in
            [0, 1]; None does not ask. Labelers without orders always pass.
        max_failures: Greatest share of pairs without a label, in [0, 1]; None does not ask.
        confident: Ask of the interval that all of it is on the good side (its lower limit reaches
            ``min_alignment`` and ``min_gain``, its upper limit of the same slot stays below), so
            that luck with few pairs does not pass. An interval that does not exist fails.

    Returns:
        What fell short, one sentence each; empty where the labeler passes.

    Raises:
        LabelerGateError: Something fell short and ``action`` is ``stop``.
        ValueError: ``action`` is neither ``warn`` nor ``stop``, or ``min_alignment`` is no share.
    """
    if action not in ("warn", "stop"):
        raise ValueError(f"expected the gate's action to be 'warn' or 'stop', got {action!r}")
    if not 0.0 <= min_alignment <= 1.0:
        raise ValueError(f"expected min_alignment in [0, 1], got {min_alignment}")
    faults = _faults(report, min_alignment, min_gain, max_same_slot, max_failures, confident)
    if faults:
        advice = " ".join(dict.fromkeys(fault.advice for fault in faults))
        said = "; ".join(fault.text for fault in faults)
        message = f"The labeler {report.labeler} falls short: {said}. {advice} {GO_ON}"
        if action == "stop":
            raise LabelerGateError(message)
        warnings.warn(message, LabelerGateWarning, stacklevel=2)
    return [fault.text for fault in faults]


def _faults(
    report: AlignmentReport,
    min_alignment: float,
    min_gain: float | None,
    max_same_slot: float | None,
    max_failures: float | None,
    confident: bool,
) -> list[Fault]:
    """List what falls short; arguments are those of ``check_gate``."""
    faults = []
    sure = " with all of its interval" if confident else ""
    if not _least(report.alignment, confident) >= min_alignment:
        faults.append(
            Fault(
                f"alignment with {judges_named(report.judged)} is {report.alignment.percent()} on "
                f"{report.alignment.n} pairs, expected at least {min_alignment:.1%}{sure}",
                TRY_ANOTHER,
            )
        )
    if min_gain is not None and not _least(report.gain_over_length, confident) >= min_gain:
        faults.append(
            Fault(
                f"gain over 'the longer response wins' is {report.gain_over_length.percent()} "
                f"(points), expected at least {min_gain:.1%}{sure}",
                TRY_ANOTHER,
            )
        )
    position = report.position
    if max_same_slot is not None and position is not None:
        same = position.same_slot
        if not (same.high if confident else same.value) <= max_same_slot:
            faults.append(
                Fault(
                    f"the same slot won in both orders in {position.text()}, expected at most "
                    f"{max_same_slot:.1%}{sure}",
                    TRY_AGAINST_BIAS,
                )
            )
    share = report.counts.unusable_share
    if max_failures is not None and math.isfinite(share) and share > max_failures:
        reasons = ", ".join(f"{reason} {n}" for reason, n in report.counts.reasons.items())
        faults.append(
            Fault(
                f"{share:.1%} of {report.counts.asked} pairs have no label ({reasons}), expected at "
                f"most {max_failures:.1%}",
                TRY_AGAINST_FAILURES,
            )
        )
    return faults


def _least(interval: Interval, confident: bool) -> float:
    """What of an interval has to reach the limit."""
    return interval.low if confident else interval.value
