"""What every side of ``rl_step.py`` trains on: reward, settings, a known response."""

from __future__ import annotations

from collections.abc import Sequence

import torch

RESPONSE = "The author asks what to do about it, and whether anyone else has been there."
RANK, ALPHA = 16, 32
TEMPERATURE, BETA, RATE = 0.9, 0.05, 1e-5


def vowels(text: str) -> float:
    """Share of vowels among the characters: a reward that costs nothing."""
    return sum(letter in "aeiou" for letter in text) / max(len(text), 1)


class VowelReward:
    """The same as a ``Reward`` of this package."""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> torch.Tensor:  # noqa: ARG002 - the protocol's
        """Return rewards ``(N,)``."""
        return torch.tensor([vowels(text) for text in responses])
