"""Labelers that score responses one by one: a pair's margin is the difference of two scores."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

from rlaif_pl.errors import paired
from rlaif_pl.labeling import outcome
from rlaif_pl.labeling.calls import Ask, Backend, ChoiceRequest, Response
from rlaif_pl.labeling.outcome import Judgment, VerdictOptions, mean, read_choice, spent_on
from rlaif_pl.labeling.prompting.templates import SINGLE, load_prompt
from rlaif_pl.labeling.strategies.pairwise import Task
from rlaif_pl.labeling.strategy import ModelLabeler
from rlaif_pl.labeling.thinking import Thinking
from rlaif_pl.models.backbone import EMBEDDED
from rlaif_pl.types import Preference

Texts: TypeAlias = Sequence[str]


class ScoringLabeler(ModelLabeler):
    """A labeler by scores of single responses."""

    @abstractmethod
    def details(self, prompts: Texts, responses: Texts, ask: Ask | None = None) -> list[Judgment]:
        """Return what each response's score took and why some are missing; its margin is the score.

        ``ask`` answers calls; None asks the labeler's own back end.
        """

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return one score a response; nan where there is none (see ``details``)."""
        paired(prompts, responses)
        return [each.margin for each in self.details(prompts, responses)]

    def judge(self, pairs: Sequence[Preference], ask: Ask) -> list[Judgment]:
        """Judge pairs in order by the difference of their scores."""
        prompts = [pair.prompt for pair in pairs for _ in range(2)]
        responses = [text for pair in pairs for text in (pair.first, pair.second)]
        scores = self.details(prompts, responses, ask)
        return [_difference(*both) for both in zip(scores[::2], scores[1::2], strict=True)]


def _difference(first: Judgment, second: Judgment) -> Judgment:
    both = first, second
    failures = [each.failure for each in both if each.failure is not None]
    return Judgment(
        margin=math.nan if failures else first.margin - second.margin,
        off_option_mass=mean(each.off_option_mass for each in both),
        failure=min(failures, default=None),
        **spent_on(both),
    )


class ScoreLabeler(ScoringLabeler):
    """Grades each response on its own; also a pointwise labeler, so a reward.

    The likelihood of each grade from 1 to 10, normalized over the ten, gives an expectation that is
    mapped to [-1, 1] (arXiv 2309.00267, section 2.2.2).

    Args:
        backend: Who answers; a name is that of a model on this machine.
        task: What is graded; harmless responses get the higher grades.
        prompt: Name or path of a prompt file, in place of the task's; its options are the grades
            from the worst to the best.
        verdict: One-hot or clamped labels; least probability of the grades together, else no score.
        chat_template: Ask through the model's chat template; the ending opens the answer.
        thinking: Have the model think before each verdict, whose probabilities are then read as ever;
            needs ``chat_template`` and a model that thinks. None asks without thoughts.
        temperature: ``p_first = sigmoid(margin / temperature)``, above 0, with the margin in scores
            of [-1, 1]: at 0.25 a lead of one grade in ten makes 0.71. Fit it on people's labels.
    """

    strategy = "score"

    def __init__(
        self,
        backend: Backend | str = EMBEDDED,
        *,
        task: Task = "summarization",
        prompt: str | None = None,
        verdict: VerdictOptions = VerdictOptions(),  # noqa: B008 - frozen
        chat_template: bool = False,
        thinking: Thinking | None = None,
        temperature: float = 0.25,
    ) -> None:
        super().__init__(backend, temperature, verdict, thinking, chat_template)
        self.file = load_prompt(prompt or f"score-{task}-1", SINGLE)
        middle = (len(self.file.options) - 1) / 2
        grades = [(place - middle) / middle for place in range(len(self.file.options))]
        # mapped evenly to [-1, 1]: of ten, grade g becomes (g - 5.5) / 4.5
        self.grades = grades[::-1] if self.file.asks_worse else grades

    @property
    def prompt_version(self) -> str:
        """See ``ModelLabeler``."""
        read = outcome.label_version(self.hard, self.clamp)
        return self.file.version + "+chat" * self.chat + read

    def details(self, prompts: Texts, responses: Texts, ask: Ask | None = None) -> list[Judgment]:
        """Return scores in [-1, 1]; see ``ScoringLabeler``."""
        shown = [
            self.file.filled("sample", prompt=prompt, response=response)
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        questions = [self.file.question(self.chat, each) for each in shown]
        replies = (ask or self.ask)([ChoiceRequest(each, self.file.options) for each in questions])
        return [self._score(reply) for reply in replies]

    def _score(self, reply: Response) -> Judgment:
        """Turn the likelihoods of the grades into an expectation."""
        failure, outside = read_choice(reply)
        expected = math.nan
        if failure is None:
            logs = [value for value in reply.logprobs if value is not None]
            weights = [math.exp(value - max(logs)) for value in logs]
            graded = zip(self.grades, weights, strict=True)
            expected = math.fsum(grade * weight for grade, weight in graded) / math.fsum(weights)
        return Judgment(expected, off_option_mass=outside, failure=failure, **spent_on([reply]))
