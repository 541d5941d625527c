"""From a judgment to a labeled preference; the same for every labeler."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rlaif_pl.types import Preference


@dataclass(frozen=True, slots=True)
class Judgment:
    """What a labeler found out about one pair.

    Attributes:
        margin: Log-odds of the first response in nats; not finite means there is no label.
        tokens: Tokens read.
        order_gap: Difference of ``p(first)`` between the two orders, in [0, 1].
        same_slot: True where the same slot won in both orders.
        outside_mass: Probability outside the verdict tokens, in [0, 1].
        failure: Why there is no label, where that is known beforehand.
    """

    margin: float
    tokens: int = 0
    order_gap: float | None = None
    same_slot: bool | None = None
    outside_mass: float | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """Who judged and how, as written into each label.

    Attributes:
        labeler: Fingerprint of the model.
        strategy: ``likelihood`` or ``pairwise``.
        prompt_version: Version of the template.
    """

    labeler: str
    strategy: str
    prompt_version: str


def labeled(
    pair: Preference, judgment: Judgment, signature: Signature, temperature: float
) -> Preference:
    """Write a judgment into a pair.

    Args:
        pair: The pair; an older label in it is replaced.
        judgment: What was found out.
        signature: Who found it out.
        temperature: ``p_first = sigmoid(margin / temperature)``.
    """
    failure = judgment.failure
    if failure is None and not math.isfinite(judgment.margin):
        failure = "nonfinite"
    provenance = replace(
        pair.provenance,
        labeler=signature.labeler,
        strategy=signature.strategy,
        prompt_version=signature.prompt_version,
        margin=judgment.margin if failure is None else None,
        order_gap=judgment.order_gap if failure is None else None,
        same_slot=judgment.same_slot if failure is None else None,
        outside_mass=judgment.outside_mass if failure is None else None,
        confidence=None,
        tokens=judgment.tokens,
        cost_usd=0.0,
        failure=failure,
    )
    if failure is not None:
        return replace(pair, p_first=None, source=None, provenance=provenance)
    p_first = sigmoid(judgment.margin / temperature)
    return replace(pair, p_first=p_first, source="ai", provenance=provenance)


def sigmoid(x: float) -> float:
    """Logistic function without overflow, in [0, 1]."""
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    return math.exp(x) / (1.0 + math.exp(x))


def checked_temperature(temperature: float) -> float:
    """Refuse a temperature that would divide by zero or turn labels around."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be a finite number above 0, got {temperature}")
    return temperature
