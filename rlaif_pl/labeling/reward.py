"""A labeler as the reward of direct RLAIF: its score takes the place of a reward model's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlaif_pl.errors import paired
from rlaif_pl.labeling.usage.projection import backends_of
from rlaif_pl.labeling.usage.reply_store import ReplyStore
from rlaif_pl.labeling.usage.spending import BudgetTracker, refuse_unpriced
from rlaif_pl.types import PointwiseLabeler


class LabelerReward:
    """Rewards responses with the scores of a pointwise labeler (arXiv 2309.00267, section 2.2.2).

    A score that cannot be had is an error: a policy would learn from any number in its place.

    Args:
        labeler: Scores one response at a time, such as ``ScoreLabeler``, ``RubricLabeler`` or
            ``LikelihoodLabeler``.
        scale: The reward is ``scale * (score - shift)``; above 0. It weighs the reward against the
            KL penalty: ``1 / temperature`` of the labeler makes rewards the log-odds of its labels.
        shift: Score that gets reward 0.
        empty: Reward of a response without any text, which not every labeler can score; None asks
            the labeler.
        replies: SQLite file that keeps the model's replies, so that a run that was killed pays for
            none of them again; None keeps them for the life of this object only.
        max_cost: Stop when this process has spent so many USD; None for no limit. A server
            needs ``prices`` for it.

    Raises:
        ValueError: The labeler scores no single responses, or a setting does not fit it.
    """

    def __init__(
        self,
        labeler: PointwiseLabeler,
        scale: float = 1.0,
        shift: float = 0.0,
        empty: float | None = None,
        replies: str | None = None,
        max_cost: float | None = None,
    ) -> None:
        if not isinstance(labeler, PointwiseLabeler):
            raise ValueError(
                f"expected a labeler that scores single responses, got {type(labeler).__name__}; "
                "use ScoreLabeler, RubricLabeler or LikelihoodLabeler"
            )
        numbers = (scale, shift, 0.0 if empty is None else empty)
        if not (all(map(math.isfinite, numbers)) and scale > 0):
            raise ValueError(
                f"expected a finite scale above 0, shift and empty, got {scale}, {shift} and {empty}"
            )
        refuse_unpriced(max_cost, backends_of(labeler))
        self.labeler = labeler
        self.scale, self.shift, self.empty = scale, shift, empty
        self.replies = replies
        self.spending = BudgetTracker(max_cost)
        self.responses = 0
        self.store: ReplyStore | None = None
        attach = getattr(labeler, "keep_replies", None)
        if attach is not None:
            attach(None, self.spending.count)
        elif replies is not None or max_cost is not None:
            raise ValueError(
                f"expected a labeler whose calls can be kept and counted, got "
                f"{type(labeler).__name__}; leave replies and max_cost out"
            )

    @property
    def fingerprint(self) -> str:
        """Everything that can change a reward."""
        settings = f"scale={self.scale!r};shift={self.shift!r};empty={self.empty!r}"
        return f"reward;{self.labeler.fingerprint};{settings}"

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Return rewards ``(N,)`` in float32 on the CPU; see ``types.Reward``.

        ValueError: some responses have no score. OutOfBudget: ``max_cost`` is spent; what was paid for
        is kept.
        """
        paired(prompts, responses)
        # opened in the process that asks, not in its parent
        if self.replies is not None and self.store is None:
            self.store = ReplyStore(self.replies)
            self.labeler.keep_replies(self.store, self.spending.count)  # type: ignore[attr-defined]
        rows = [n for n, text in enumerate(responses) if text.strip() or self.empty is None]
        asked = [prompts[n] for n in rows], [responses[n] for n in rows]
        scores = self.labeler.score(*asked)
        self._refuse_missing(scores, *asked)
        self.responses += len(scores)
        rewards = torch.full((len(responses),), self.empty or 0.0, dtype=torch.float32)
        rewards[rows] = self.scale * (torch.tensor(scores, dtype=torch.float32) - self.shift)
        return rewards

    def to_metrics(self, prefix: str) -> dict[str, float]:
        """Return what the rewards took: this process's calls, and all calls in the file of replies."""
        metrics = {f"{prefix}/run_responses": float(self.responses)}
        metrics |= self.spending.to_metrics(prefix)
        if self.store is not None:
            metrics |= self.store.totals().to_metrics(prefix)
        return metrics

    def _refuse_missing(
        self, scores: Sequence[float], prompts: Sequence[str], responses: Sequence[str]
    ) -> None:
        missing = [n for n, value in enumerate(scores) if not math.isfinite(value)]
        if not missing:
            return
        # every reply is known by now
        details: Any = getattr(self.labeler, "details", lambda *_: [])
        found = details([prompts[n] for n in missing], [responses[n] for n in missing])
        reasons = Counter(each.failure or "nonfinite" for each in found)
        why = ", ".join(f"{name}: {count}" for name, count in sorted(reasons.items()))
        raise ValueError(
            f"expected a score for each of {len(responses)} responses, got none for {len(missing)} "
            f"({why or 'no reason given'}); check that the prompts fit into the labeler's context and "
            "that its back end answers, with a grade, then resume"
        )
