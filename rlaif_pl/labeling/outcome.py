"""From a judgment to a labeled preference; the same for every labeler."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from rlaif_pl.labeling.guard import MIN_OPTION_MASS
from rlaif_pl.types import Preference


@dataclass(frozen=True, slots=True)
class Judgment:
    """What a labeler found out about one pair."""

    # log-odds of the first response in nats; without `p_first`, a margin that is not finite means
    # there is no label
    margin: float
    tokens: int = 0  # tokens read and written
    position_gap: float | None = None  # difference of `p(first)` between the two orders, in [0, 1]
    same_slot: bool | None = None  # true where the same slot won in both orders
    off_option_mass: float | None = None  # probability outside the verdict tokens, in [0, 1]
    failure: str | None = None  # why there is no label, where that is known beforehand
    # slot (1 or 2) that the model named in both orders; None where they differ
    slot: int | None = None
    cost_usd: float = 0.0  # money paid
    # greatest difference of two members' `p_first` in an ensemble, in [0, 1]
    ensemble_spread: float | None = None
    # the label itself where it does not follow from the margin (one-hot or clamped labels, decoded
    # verdicts)
    p_first: float | None = None
    written: int = 0  # of these, the tokens written
    # probability of a tie among the verdicts, in [0, 1], where ties are asked for
    tie_mass: float | None = None


@dataclass(frozen=True, slots=True)
class LabelerInfo:
    """Who judged and how, as written into each label."""

    labeler: str  # fingerprint of the model
    strategy: str  # `likelihood`, `pairwise`, `free_form`,
    prompt_version: str  # version of the template with the settings that change a label


def labeled(
    pair: Preference, judgment: Judgment, signature: LabelerInfo, temperature: float
) -> Preference:
    """Write a judgment into a pair, with ``p_first = sigmoid(margin / temperature)``."""
    failure = judgment.failure
    has_margin = math.isfinite(judgment.margin)
    if failure is None and not has_margin and judgment.p_first is None:
        failure = "nonfinite"
    usable = failure is None
    provenance = replace(
        pair.provenance,
        labeler=signature.labeler,
        strategy=signature.strategy,
        prompt_version=signature.prompt_version,
        margin=judgment.margin if usable and has_margin else None,
        position_gap=judgment.position_gap if usable else None,
        slot=judgment.slot if usable else None,
        same_slot=judgment.same_slot if usable else None,
        off_option_mass=judgment.off_option_mass,  # also where it is why there is no label
        tie_mass=judgment.tie_mass if usable else None,
        ensemble_spread=judgment.ensemble_spread if usable else None,
        confidence=None,
        tokens=judgment.tokens,
        written=judgment.written,
        cost_usd=judgment.cost_usd,
        failure=failure,
    )
    if not usable:
        return replace(pair, p_first=None, source=None, provenance=provenance)
    p_first = judgment.p_first
    if p_first is None:
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


Clamp: TypeAlias = tuple[float, float] | None
"""Least and greatest probability of a label; None leaves labels as they are."""


def checked_clamp(clamp: Clamp) -> Clamp:
    """Return limits that favor no side. ``ValueError``: they are not (x, 1 - x) with x in [0, 0.5]."""
    if clamp is None:
        return None
    low, high = clamp
    if not (0.0 <= low <= 0.5 and math.isclose(low + high, 1.0, abs_tol=1e-12)):
        raise ValueError(
            f"expected clamp to be (x, 1 - x) with x in [0, 0.5], such as (0.4, 0.6), got {clamp}; "
            "other limits would label a pair differently when its responses are swapped"
        )
    return (low, 1.0 - low)


def label_version(hard: bool, clamp: Clamp) -> str:
    """Name what ``finalize`` does, for a version string."""
    return "+hard" * hard + ("" if clamp is None else f"+clamp={clamp[0]!r}:{clamp[1]!r}")


def finalize(judgment: Judgment, temperature: float, *, hard: bool, clamp: Clamp) -> Judgment:
    """Fix the label of a judgment where it is one-hot or clamped.

    Args:
        judgment: What was found out.
        temperature: ``p_first = sigmoid(margin / temperature)``.
        hard: Label with 1 or 0 for the likelier side, 0.5 for a tie.
        clamp: Limits of the label, applied after the temperature and after ``hard``.
    """
    if judgment.failure is not None or not math.isfinite(judgment.margin):
        return judgment
    if not hard and clamp is None:
        return judgment
    p_first = sigmoid(judgment.margin / temperature)
    if hard:
        p_first = one_hot(judgment.margin)
    if clamp is not None:
        p_first = min(max(p_first, clamp[0]), clamp[1])
    return replace(judgment, p_first=p_first)


def one_hot(margin: float) -> float:
    """Label of the side a margin favors: 1, 0, or 0.5 for none."""
    return 0.5 if margin == 0 else float(margin > 0)


@dataclass(frozen=True)
class VerdictOptions:
    """How a verdict is read.

    Attributes:
        hard: One-hot labels: 1 or 0 for the likelier side, or for the response with the higher score.
        clamp: Limits ``(x, 1 - x)`` of the label, such as (0.4, 0.6); None leaves it as it is. ``auto``
            is (0.4, 0.6) for ``ConstitutionLabeler`` with ``cot`` and none otherwise.
        min_option_mass: Least probability of the options together, in [0, 1); what has less gives no
            label (``low_option_mass``).
    """

    hard: bool = False
    clamp: tuple[float, float] | Literal["auto"] | None = "auto"
    min_option_mass: float = MIN_OPTION_MASS

    def __post_init__(self) -> None:
        least = self.min_option_mass
        if not 0.0 <= least < 1.0:
            raise ValueError(
                f"expected min_option_mass in [0, 1), got {least}; 0 takes every answer"
            )
        self.limits()

    def limits(self, auto: Clamp = None) -> Clamp:
        """Return the limits of the label; ``auto`` stands for those of the strategy."""
        return checked_clamp(auto if self.clamp == "auto" else self.clamp)
