"""How the probabilities of a verdict become a label: what labelers that read options have alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlaif_pl.labeling.guard import MIN_OPTION_MASS, checked_mass
from rlaif_pl.labeling.outcome import Clamp, checked_clamp


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
        """Refuse limits that would favor one side, and a threshold that is no probability."""
        checked_mass(self.min_option_mass)
        self.limits()

    def limits(self, auto: Clamp = None) -> Clamp:
        """Return the limits of the label; ``auto`` stands for those of the strategy."""
        return checked_clamp(auto if self.clamp == "auto" else self.clamp)
