"""Stop, or at least warn, before training on labels that do not agree with people."""

from __future__ import annotations

import warnings
from typing import Literal

from rlaif_pl.evaluation.alignment import AlignmentReport

Action = Literal["warn", "stop"]

ADVICE = (
    "Try a larger labeler; the other strategy (likelihood for models that cannot follow a "
    "labeling prompt, pairwise for those that can); another prompt; or check that the gold pairs "
    "are of the kind you train on. To go on regardless, set the gate's action to 'warn'."
)


class LabelerGateError(RuntimeError):
    """The labeler agrees too little with people to train on its labels."""


class LabelerGateWarning(UserWarning):
    """As ``LabelerGateError``, where the run was told to go on."""


def check_gate(
    report: AlignmentReport,
    min_alignment: float = 0.6,
    min_gain: float | None = 0.0,
    action: Action = "warn",
) -> list[str]:
    """Compare a report with the least a run accepts.

    Estimates are compared, not their lower limits, so that a small gold set does not stop a good
    labeler; the message shows the interval.

    Args:
        report: Measurement of the labeler.
        min_alignment: Least share of agreement, in [0, 1].
        min_gain: Least gain over the length rule, in [-1, 1]; None does not ask for one.
        action: ``stop`` raises, ``warn`` warns.

    Returns:
        What fell short, one sentence each; empty where the labeler passes.

    Raises:
        LabelerGateError: Something fell short and ``action`` is ``stop``.
        ValueError: ``action`` is neither ``warn`` nor ``stop``.
    """
    if action not in ("warn", "stop"):
        raise ValueError(f"expected the gate's action to be 'warn' or 'stop', got {action!r}")
    faults = []
    if not report.alignment.value >= min_alignment:
        faults.append(
            f"alignment with people is {report.alignment.percent()} on {report.alignment.n} pairs, "
            f"expected at least {min_alignment:.1%}"
        )
    if min_gain is not None and not report.gain_over_length.value >= min_gain:
        faults.append(
            f"gain over 'the longer response wins' is {report.gain_over_length.percent()} "
            f"(points), expected at least {min_gain:.1%}"
        )
    if faults:
        message = f"The labeler {report.labeler} falls short: {'; '.join(faults)}. {ADVICE}"
        if action == "stop":
            raise LabelerGateError(message)
        warnings.warn(message, LabelerGateWarning, stacklevel=2)
    return faults
