"""Stop, or at least warn, before training on labels that do not agree with gold verdicts."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rlaif_pl.evaluation.agreement.measure import AlignmentReport
from rlaif_pl.evaluation.pairs import judges_named

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


Fault = tuple[str, str]  # what was measured and what was expected; what to try


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

    def _faults(self, report: AlignmentReport) -> Iterator[Fault]:
        sure = " with all of its interval" * self.confident
        least, most = ("low", "high") if self.confident else ("value", "value")
        alignment, gain, position = report.alignment, report.gain_over_length, report.position
        if not getattr(alignment, least) >= self.min_alignment:
            yield (
                f"alignment with {judges_named(report.judged)} is {alignment.percent()} on "
                f"{alignment.n} pairs, expected at least {self.min_alignment:.1%}{sure}",
                TRY_ANOTHER,
            )
        if self.min_gain is not None and not getattr(gain, least) >= self.min_gain:
            yield (
                f"gain over 'the longer response wins' is {gain.percent()} "
                f"(points), expected at least {self.min_gain:.1%}{sure}",
                TRY_ANOTHER,
            )
        slot = self.max_same_slot
        if slot is not None and position and not getattr(position.same_slot, most) <= slot:
            yield (
                f"the same slot won in both orders in {position.text()}, expected at most "
                f"{slot:.1%}{sure}",
                TRY_AGAINST_BIAS,
            )
        share = report.counts.unusable_share
        if self.max_failures is not None and math.isfinite(share) and share > self.max_failures:
            reasons = ", ".join(f"{reason} {n}" for reason, n in report.counts.reasons.items())
            yield (
                f"{share:.1%} of {report.counts.asked} pairs have no label ({reasons}), expected at "
                f"most {self.max_failures:.1%}",
                TRY_AGAINST_FAILURES,
            )
