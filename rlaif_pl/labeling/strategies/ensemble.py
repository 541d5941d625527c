"""Several labelers as one: the weighted average of their probabilities."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Protocol, runtime_checkable

from rlaif_pl.data.failures import is_asked_again
from rlaif_pl.labeling import outcome
from rlaif_pl.labeling.calls import Watch
from rlaif_pl.labeling.outcome import Judgment, LabelerInfo
from rlaif_pl.labeling.strategy import ReplyCache
from rlaif_pl.types import Labeler, Preference


@runtime_checkable
class KeepsReplies(Protocol):
    """A labeler whose model's replies can be kept."""

    def keep_replies(self, store: ReplyCache | None, watch: Watch | None = None) -> None:
        """See ``ModelLabeler.keep_replies``."""


class EnsembleLabeler:
    """Averages the probabilities of several labelers.

    Attributes:
        left_out: How often each member failed so far, by its place from 1 and the kind of failure
            (``"2:refused"``).

    Args:
        labelers: At least two.
        weights: Weight of each, at least 0 and not all 0; None weighs them alike.
        on_failure: What becomes of a pair that a member could not label: ``fail`` leaves it
            unlabeled, ``skip`` averages those that could, and leaves it unlabeled where none could, or
            where one failed that the next run asks again (``timeout``, ``http_429``, ...): its absence
            would be in the label for good.
        temperature: ``p_first = sigmoid(margin / temperature)``, above 0, where the margin is the
            log-odds of the averaged probability; 1 gives the average itself.
    """

    strategy = "ensemble"

    def __init__(
        self,
        labelers: list[Labeler],
        *,
        weights: list[float] | None = None,
        on_failure: Literal["fail", "skip"] = "fail",
        temperature: float = 1.0,
    ) -> None:
        if len(labelers) < 2:
            raise ValueError(f"expected at least two labelers in an ensemble, got {len(labelers)}")
        given = [1.0] * len(labelers) if weights is None else list(weights)
        total = math.fsum(given)
        if len(given) != len(labelers) or min(given) < 0 or not 0 < total < math.inf:
            raise ValueError(
                f"expected {len(labelers)} weights of at least 0 that are not all 0, got {given}"
            )
        if on_failure not in ("fail", "skip"):
            raise ValueError(f"on_failure must be 'fail' or 'skip', got {on_failure!r}")
        self.labelers = list(labelers)
        self.weights = [weight / total for weight in given]
        self.on_failure = on_failure
        self.temperature = outcome.checked_temperature(temperature)
        self.left_out: Counter[str] = Counter()

    @property
    def prompt_version(self) -> str:
        """Shares of the members, and what becomes of a pair that one of them leaves out."""
        shares = ":".join(f"{weight:.6g}" for weight in self.weights)
        return f"weights={shares}+{self.on_failure}"

    @property
    def fingerprint(self) -> str:
        """Everything that can change a label."""
        members = " & ".join(f"[{labeler.fingerprint}]" for labeler in self.labelers)
        return f"ensemble;{members};{self.prompt_version};temperature={self.temperature!r}"

    def keep_replies(self, store: ReplyCache | None, watch: Watch | None = None) -> None:
        """Keep the replies of every member that asks a model; see ``ModelLabeler``."""
        for labeler in self.labelers:
            if isinstance(labeler, KeepsReplies):
                labeler.keep_replies(store, watch)

    def label(self, pairs: Sequence[Preference]) -> list[Preference]:
        """Label pairs; order and identity are kept."""
        by_member = [labeler.label(pairs) for labeler in self.labelers]
        self.left_out.update(
            f"{place}:{label.provenance.failure or 'unlabeled'}"
            for place, labels in enumerate(by_member, 1)
            for label in labels
            if label.p_first is None
        )
        members = " & ".join(str(labels[0].provenance.labeler) for labels in by_member if labels)
        signature = LabelerInfo(members, self.strategy, self.prompt_version)
        return [
            outcome.labeled(pair, self._judgment(said), signature, self.temperature)
            for pair, *said in zip(pairs, *by_member, strict=True)
        ]

    def _judgment(self, said: Sequence[Preference]) -> Judgment:
        notes = [pair.provenance for pair in said]
        spent = Judgment(math.nan, **outcome.spent_on(notes))
        weighed = list(zip(said, self.weights, strict=True))
        votes = [(pair.p_first, weight) for pair, weight in weighed if pair.p_first is not None]
        total = math.fsum(weight for _, weight in votes)
        failed = [(pair.provenance.failure, weight) for pair, weight in weighed]
        passing = [why for why, weight in failed if why and weight > 0 and is_asked_again(why)]
        if self.on_failure == "skip" and passing:
            return replace(spent, failure=min(passing))
        if total == 0 or (self.on_failure == "fail" and len(votes) < len(said)):
            failures = (why for why, _ in failed if why)
            return replace(spent, failure=min(failures, default="unlabeled"))
        # Each side is summed by itself, so that swapping the responses swaps the two exactly.
        first = math.fsum(weight * p for p, weight in votes) / total
        second = math.fsum(weight * (1.0 - p) for p, weight in votes) / total
        gap = outcome.mean(
            pair.provenance.position_gap for pair in said if pair.p_first is not None
        )
        spread = max(p for p, _ in votes) - min(p for p, _ in votes)
        judgment = replace(spent, position_gap=gap, ensemble_spread=spread)
        if min(first, second) <= 0.0:
            return replace(judgment, p_first=float(first > second))
        return replace(judgment, margin=math.log(first) - math.log(second))
