"""Who compares policies in a matrix, and whom they taught."""

from __future__ import annotations

from dataclasses import dataclass

from rlaif_pl.types import Labeler, Reward


@dataclass(frozen=True)
class MatrixJudges:
    """The judges of ``evaluate matrix``.

    Attributes:
        labelers: Labelers by name.
        rewards: Rewards by name: each is a column beside the policies, and a judge.
        taught: Policies that a labeler's labels (or a reward) trained, by its name; their comparisons
            by it are marked.
        independent: Also ask a judge that trained nothing here (sentence embeddings): ``embedding``.
        rouge: Also judge by ROUGE-L where every prompt has a reference: ``rouge_l``.
    """

    labelers: dict[str, Labeler | str] | None = None
    rewards: dict[str, Reward] | None = None
    taught: dict[str, list[str]] | None = None
    independent: bool = True
    rouge: bool = True
