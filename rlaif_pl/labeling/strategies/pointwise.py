"""Labelers that score responses one by one: a pair's margin is the difference of two scores.

Each response is judged alone, so there is no order and no position bias; any of them is also a reward.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from rlaif_pl.labeling.calls import Ask
from rlaif_pl.labeling.outcome import Clamp, Judgment, finalize
from rlaif_pl.labeling.strategy import ModelLabeler
from rlaif_pl.types import Preference


@dataclass(frozen=True, slots=True)
class ResponseScore:
    """Score of one response."""

    value: float  # higher is better; nan where there is none
    off_option_mass: float  # probability outside the options, in [0, 1]; nan without options
    tokens: int  # tokens read and written
    written: int  # of these, the tokens written
    cost_usd: float  # money paid
    failure: str | None  # why there is no score


class ScoringLabeler(ModelLabeler):
    """A labeler by scores of single responses."""

    hard: bool = False  # one-hot labels
    clamp: Clamp = None  # limits of the label

    @abstractmethod
    def details(
        self, prompts: Sequence[str], responses: Sequence[str], ask: Ask | None = None
    ) -> list[ResponseScore]:
        """Return scores with what they took and why some are missing.

        ``ask`` answers calls; None asks the labeler's own back end.
        """

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return one score a response; nan where there is none (see ``details``)."""
        return [score.value for score in self.details(prompts, responses)]

    def judge(self, pairs: Sequence[Preference], ask: Ask) -> list[Judgment]:
        """Judge pairs in order by the difference of their scores."""
        prompts = [pair.prompt for pair in pairs for _ in range(2)]
        responses = [text for pair in pairs for text in (pair.first, pair.second)]
        scores = self.details(prompts, responses, ask)
        return [
            finalize(_difference(*both), self.temperature, hard=self.hard, clamp=self.clamp)
            for both in zip(scores[::2], scores[1::2], strict=True)
        ]


def _difference(*both: ResponseScore) -> Judgment:
    """Judge by two scores."""
    first, second = both
    failures = [each.failure for each in both if each.failure is not None]
    known = [each.off_option_mass for each in both if math.isfinite(each.off_option_mass)]
    return Judgment(
        margin=math.nan if failures else first.value - second.value,
        tokens=first.tokens + second.tokens,
        written=first.written + second.written,
        cost_usd=math.fsum([first.cost_usd, second.cost_usd]),
        off_option_mass=math.fsum(known) / len(known) if known else None,
        failure=min(failures, default=None),
    )
