"""Small, real labelers and rewards whose verdicts a test can work out by hand."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rlaif_pl.types import Preference, Provenance


class LengthLabeler:
    """A pointwise labeler: more characters, better. Keeps what it scored."""

    fingerprint = "length-labeler"

    def __init__(self) -> None:
        self.scored: list[tuple[str, str]] = []

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        self.scored += zip(prompts, responses, strict=True)
        return [float(len(text)) for text in responses]

    def label(self, pairs: Sequence[Preference]) -> list[Preference]:
        margins = torch.tensor([float(len(pair.first) - len(pair.second)) for pair in pairs])
        return [
            replace(pair, p_first=p, source="ai", provenance=Provenance(tokens=7))
            for pair, p in zip(pairs, (margins / 10).sigmoid().tolist(), strict=True)
        ]


class Answers:
    """A labeler that gives the answers it was made with, in order; a text is a failure's kind."""

    fingerprint = "answers"

    def __init__(self, answers: Sequence[float | str]) -> None:
        self.answers = answers
        self.seen: list[Preference] = []

    def label(self, pairs: Sequence[Preference]) -> list[Preference]:
        self.seen = list(pairs)
        return [self._answer(*row) for row in zip(pairs, self.answers, strict=True)]

    def _answer(self, pair: Preference, answer: float | str) -> Preference:
        if isinstance(answer, str):
            return replace(pair, provenance=Provenance(failure=answer))
        return replace(pair, p_first=answer, source="ai", provenance=Provenance(tokens=10))


class LengthReward:
    """A reward: characters of the response, in tens."""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        assert len(prompts) == len(responses)
        return torch.tensor([len(text) / 10 for text in responses])


@pytest.fixture
def length_labeler() -> LengthLabeler:
    return LengthLabeler()


@pytest.fixture
def length_reward() -> LengthReward:
    return LengthReward()


@pytest.fixture
def answering() -> Callable[[Sequence[float | str]], Answers]:
    """Make a labeler from its answers."""
    return Answers
