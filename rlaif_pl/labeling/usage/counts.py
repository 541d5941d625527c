"""What became of the pairs a labeler was given, by kind: nothing is lost, nothing is guessed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rlaif_pl.types import Preference

Kind = Literal["malformed", "refused", "too_long", "failed"]
TIE = 1e-9  # a label this near to one half favors neither side
KINDS: dict[str, Kind] = {
    "malformed": "malformed",  # an answer came, but no verdict could be read from it
    "empty": "malformed",
    "empty_rationale": "malformed",
    "both": "malformed",  # the answer names both, or neither
    "neither": "malformed",
    "nonfinite": "malformed",
    "missing_logprob": "malformed",
    "low_option_mass": "malformed",  # the model would nearly always write something else
    "unclosed_thought": "malformed",  # the length limit came before the answer
    "refused": "refused",  # the model declined to judge
    "too_long": "too_long",  # the question does not fit; its ending is never cut off
}
# Every other failure is the call's own (timeouts, connections, http_500, ...): "failed".


def kind_of(failure: str | None) -> Kind:
    """Return the kind of a failure; what is not known here counts as a failed call."""
    return KINDS.get(failure or "", "failed")


@dataclass(frozen=True, slots=True)
class OutcomeCounts:
    """Pairs by what became of them; every pair asked about is in exactly one of the other counts."""

    asked: int  # all pairs
    decided: int  # with a label that favors a side
    # with a label of one half. A tie is an answer: it stays a label, trains as the soft target 0.5
    # (which pulls two rewards together), counts half in alignment and is left out where a format has
    # no place for it (chosen/rejected)
    tied: int
    malformed: int  # an answer from which no verdict could be read. No label
    refused: int  # the model declined. No label
    too_long: int  # the question did not fit into the model's context. No label
    # the call had no answer (timeouts, errors of the server), or was never made. No label
    failed: int
    # pairs without a label by the reason on record
    reasons: dict[str, int] = field(default_factory=dict)

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
        kinds = ("asked", "decided", "tied", "malformed", "refused", "too_long", "failed")
        return {f"{prefix}/{kind}": float(getattr(self, kind)) for kind in kinds}

    def text(self) -> str:
        """Name the kinds that occurred, for example ``malformed 3, tied 1``; "none" without any."""
        kinds = ("malformed", "refused", "too_long", "failed", "tied")
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
        malformed=kinds["malformed"],
        refused=kinds["refused"],
        too_long=kinds["too_long"],
        failed=kinds["failed"],
        reasons=dict(sorted(Counter(missing).items())),
    )
