"""Labelers that score responses one by one: a pair's margin is the difference of two scores.

Each response is judged alone, so there is no order and no position bias; any of them is also a reward.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

from rlaif_pl.labeling.calls import Ask, Backend
from rlaif_pl.labeling.outcome import Clamp, Judgment, finalize
from rlaif_pl.labeling.strategy import ModelLabeler
from rlaif_pl.labeling.thinking import Thinking
from rlaif_pl.labeling.verdict_options import VerdictOptions
from rlaif_pl.types import Preference


class ScoringLabeler(ModelLabeler):
    """A labeler by scores of single responses; arguments as of ``ModelLabeler``."""

    def __init__(
        self,
        backend: Backend | str,
        temperature: float,
        verdict: VerdictOptions | None = None,
        thinking: Thinking | None = None,
    ) -> None:
        least = None if verdict is None else verdict.min_option_mass
        super().__init__(backend, temperature, least, thinking)
        self.hard = verdict is not None and verdict.hard
        self.clamp: Clamp = None if verdict is None else verdict.limits()

    @abstractmethod
    def details(
        self, prompts: Sequence[str], responses: Sequence[str], ask: Ask | None = None
    ) -> list[Judgment]:
        """Return what each response's score took and why some are missing; its margin is the score.

        ``ask`` answers calls; None asks the labeler's own back end.
        """

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return one score a response; nan where there is none (see ``details``)."""
        return [each.margin for each in self.details(prompts, responses)]

    def judge(self, pairs: Sequence[Preference], ask: Ask) -> list[Judgment]:
        """Judge pairs in order by the difference of their scores."""
        prompts = [pair.prompt for pair in pairs for _ in range(2)]
        responses = [text for pair in pairs for text in (pair.first, pair.second)]
        scores = self.details(prompts, responses, ask)
        return [
            finalize(_difference(*both), self.temperature, hard=self.hard, clamp=self.clamp)
            for both in zip(scores[::2], scores[1::2], strict=True)
        ]


def _difference(first: Judgment, second: Judgment) -> Judgment:
    both = first, second
    failures = [each.failure for each in both if each.failure is not None]
    known = [each.off_option_mass for each in both if each.off_option_mass is not None]
    return Judgment(
        margin=math.nan if failures else first.margin - second.margin,
        tokens=first.tokens + second.tokens,
        written=first.written + second.written,
        cost_usd=math.fsum([first.cost_usd, second.cost_usd]),
        off_option_mass=math.fsum(known) / len(known) if known else None,
        failure=min(failures, default=None),
    )
