"""A labeler as the reward of direct RLAIF: its score takes the place of a reward model's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rlaif_pl.types import PointwiseLabeler


class LabelerReward:
    """Rewards responses with the scores of a pointwise labeler (arXiv 2309.00267, section 2.2.2).

    A score that cannot be had is an error: any number in its place would be a reward that nobody
    gave, and a policy would learn from it.

    Args:
        labeler: Scores one response at a time, such as ``ScoreLabeler`` or ``LikelihoodLabeler``.
    """

    def __init__(self, labeler: PointwiseLabeler) -> None:
        if not isinstance(labeler, PointwiseLabeler):
            raise ValueError(
                f"expected a labeler that scores single responses, got {type(labeler).__name__}; "
                "use ScoreLabeler or LikelihoodLabeler"
            )
        self.labeler = labeler

    @property
    def fingerprint(self) -> str:
        """Everything that can change a reward."""
        return f"reward;{self.labeler.fingerprint}"

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Return rewards ``(N,)`` in float32 on the CPU; see ``types.Reward``.

        Raises:
            ValueError: Some responses have no score.
        """
        scores = self.labeler.score(prompts, responses)
        missing = [place for place, value in enumerate(scores) if not math.isfinite(value)]
        if missing:
            raise ValueError(
                f"expected a score for each of {len(scores)} responses, got none for "
                f"{len(missing)} (the first at place {missing[0]}); check that the prompts fit into "
                "the labeler's context and that its back end answers, then resume"
            )
        return torch.tensor(scores, dtype=torch.float32)
