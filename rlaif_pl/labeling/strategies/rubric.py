"""Scores by criteria: how likely is "Yes" to each of them, and the weighted mean over all."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlaif_pl.data.files import read_rows
from rlaif_pl.labeling import outcome
from rlaif_pl.labeling.calls import Ask, Backend, ChoiceRequest, Question, Response
from rlaif_pl.labeling.outcome import Judgment, VerdictOptions, read_choice
from rlaif_pl.labeling.prompting.templates import SINGLE, load_prompt, parse_yaml, read_versioned
from rlaif_pl.labeling.strategies.pairwise import Task
from rlaif_pl.labeling.strategies.scoring import ScoringLabeler, Texts
from rlaif_pl.labeling.thinking import Thinking
from rlaif_pl.models.backbone import EMBEDDED
from rlaif_pl.text import shown


@dataclass(frozen=True, slots=True)
class Criterion:
    """One thing that a good response does."""

    description: str  # a sentence that a response makes true or not
    weight: float = 1.0  # its share in the score, above 0, relative to those of the other criteria


@dataclass(frozen=True, slots=True)
class PromptRubric:
    """What is known about one prompt besides its text."""

    criteria: tuple[Criterion, ...] = ()  # its own criteria; empty where those of the task hold
    reference: str | None = None  # a good response to compare with; None where there is none


def load_criteria(name: str) -> tuple[tuple[Criterion, ...], str]:
    """Load criteria by name or path (YAML, JSON), with their version; errors as of ``criteria_of``."""
    content, version = read_versioned(name, ".yaml")
    return criteria_of(parse_yaml(content, version), version), version


def criteria_of(rows: object, where: str) -> tuple[Criterion, ...]:
    """Check criteria, each ``{description, weight}`` or a text; a ``ValueError`` names ``where``."""
    if not isinstance(rows, list) or not rows:
        raise ValueError(
            f"expected {where} to hold a list of criteria {{description, weight}}, got {shown(rows)}"
        )
    found = tuple(_criterion(row, where) for row in rows)
    if len({each.description for each in found}) < len(found):
        raise ValueError(f"expected different criteria in {where}, got one twice; leave it out")
    return found


def _criterion(row: object, where: str) -> Criterion:
    fields = row if isinstance(row, dict) else {"description": row}
    text, weight = fields.get("description"), fields.get("weight", 1.0)
    if not isinstance(text, str) or not text.strip() or set(fields) - {"description", "weight"}:
        raise ValueError(
            f"expected each criterion in {where} to be {{description: TEXT, weight: NUMBER}}, got "
            f"{shown(row)}"
        )
    value = math.nan
    if isinstance(weight, int | float) and not isinstance(weight, bool):
        value = float(weight)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(
            f"expected weights above 0 in {where}, got {weight!r} for {text[:40]!r}; word a fault so "
            "that Yes is good (it does not ...)"
        )
    return Criterion(text.strip(), value)


def load_rows(path: str) -> tuple[Mapping[str, PromptRubric], str]:
    """Load ``rows`` of a ``RubricLabeler``: by stripped prompt, and a version made of the content."""
    known: dict[str, PromptRubric] = {}
    digest = hashlib.sha256()
    for row in read_rows(Path(path).expanduser()):
        prompt = row.fields.get("prompt", row.fields.get("text"))
        reference = row.fields.get("reference")
        if not isinstance(prompt, str) or not isinstance(reference, str | None):
            raise ValueError(
                f"expected prompt (and reference, if any) to be text in {row.where}, got "
                f"{shown(prompt)} and {shown(reference)}"
            )
        prompt = prompt.strip()  # as readers of data do
        own = row.fields.get("criteria")
        criteria = () if own is None else criteria_of(own, row.where)
        if prompt in known:
            raise ValueError(f"expected each prompt once in {path}, got that of {row.where} again")
        known[prompt] = PromptRubric(criteria, reference or None)
        digest.update(repr((prompt, known[prompt])).encode())
    return known, f"{Path(path).stem}-{digest.hexdigest()[:12]}"


class RubricLabeler(ScoringLabeler):
    """Asks whether a response meets each of several criteria; also a pointwise labeler, so a reward.

    A response's score is ``sum(weight * p) / sum(weight)`` over the criteria, in [0, 1], where p is the
    probability of "Yes" among "Yes" and "No". A response with a criterion that gave no answer has none.

    Args:
        backend: Who answers; a name is that of a model on this machine.
        task: Whose criteria and nothing else it chooses.
        criteria: Name or path of a YAML or JSON list of ``{description, weight}``, in place of the
            task's.
        rows: Data file with ``prompt`` and, each where there is one, ``criteria`` (in place of those
            above) and ``reference`` (a good response, shown for comparison). A warning tells once
            of prompts without a row.
        prompt: Name or path of a prompt file with a part ``criterion``; its first option says that the
            criterion is met, the second that it is not.
        verdict: One-hot or clamped labels; least probability of "Yes" and "No" together, else a
            criterion gives no answer.
        chat_template: Ask through the model's chat template; the ending opens the answer.
        thinking: Have the model think before each answer; needs ``chat_template``.
        temperature: ``p_first = sigmoid((score_first - score_second) / temperature)``, above 0: at 0.1
            a lead of a tenth makes 0.73. Fit it on people's labels.
    """

    strategy = "rubric"

    def __init__(
        self,
        backend: Backend | str = EMBEDDED,
        *,
        task: Task = "summarization",
        criteria: str | None = None,
        rows: str | None = None,
        prompt: str = "rubric-1",
        verdict: VerdictOptions = VerdictOptions(),  # noqa: B008 - frozen
        chat_template: bool = False,
        thinking: Thinking | None = None,
        temperature: float = 0.1,
    ) -> None:
        super().__init__(backend, temperature, verdict, thinking, chat_template)
        self.file = load_prompt(prompt, SINGLE)
        self.file.part("criterion", "criteria")
        if len(self.file.options) != 2:
            raise ValueError(
                f"expected two options in prompt {self.file.version}, met and not met, got "
                f"{len(self.file.options)}"
            )
        self.criteria, version = load_criteria(criteria or f"criteria-{task}-1")
        self.rows: Mapping[str, PromptRubric] = {}
        self._has_warned, self._versions = False, [version]
        if rows is not None:
            self.rows, version = load_rows(rows)
            self._versions.append(version)
        if any(row.reference for row in self.rows.values()):
            self.file.part("reference", "references")

    @property
    def prompt_version(self) -> str:
        """See ``ModelLabeler``."""
        asked = "+".join([self.file.version, *self._versions]) + "+chat" * self.chat
        return asked + outcome.label_version(self.hard, self.clamp)

    def rubric_of(self, prompt: str) -> tuple[Criterion, ...]:
        """Return the criteria for a prompt: its own, or the task's."""
        return self._row(prompt).criteria or self.criteria

    def details(self, prompts: Texts, responses: Texts, ask: Ask | None = None) -> list[Judgment]:
        """Return scores in [0, 1]; see ``ScoringLabeler``."""
        answers = self._answers(prompts, responses, ask or self.ask)
        rubrics = [self.rubric_of(prompt) for prompt in prompts]
        return [_weighted(*both) for both in zip(rubrics, answers, strict=True)]

    def met(self, prompts: Sequence[str], responses: Sequence[str]) -> list[dict[str, float]]:
        """Return, a response, how likely each criterion is met, in [0, 1]; nan where unknown."""
        answers = self._answers(prompts, responses, self.ask)
        return [
            {c.description: _yes(reply) for c, reply in zip(self.rubric_of(p), own, strict=True)}
            for p, own in zip(prompts, answers, strict=True)
        ]

    def _row(self, prompt: str) -> PromptRubric:
        return self.rows.get(prompt.strip(), PromptRubric())

    def _answers(self, prompts: Texts, responses: Texts, ask: Ask) -> list[list[Response]]:
        asked = set(map(str.strip, prompts))
        missing = asked - self.rows.keys()
        if self.rows and missing and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"expected a row of criteria for each prompt, got none for {len(missing)} of "
                f"{len(asked)}; they are judged by the task's criteria without a reference: add rows, "
                "or see whether their prompts are the same",
                stacklevel=3,
            )
        calls = [
            [
                ChoiceRequest(self._question(prompt, response, criterion), self.file.options)
                for criterion in self.rubric_of(prompt)
            ]
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        replies = iter(ask([call for own in calls for call in own]))
        return [[next(replies) for _ in own] for own in calls]

    def _question(self, prompt: str, response: str, criterion: Criterion) -> Question:
        shown = [self.file.filled("sample", prompt=prompt, response=response)]
        reference = self._row(prompt).reference
        if reference is not None:
            shown.append(self.file.filled("reference", reference=reference))
        # last, so that all questions about a response share what is read before it
        shown.append(self.file.filled("criterion", criterion=criterion.description))
        return self.file.question(self.chat, *shown)


def _yes(reply: Response) -> float:
    """Probability of the first option among both; nan where it is not known."""
    if read_choice(reply)[0] is not None:
        return math.nan
    yes, no = (value for value in reply.logprobs if value is not None)
    return outcome.sigmoid(yes - no)


def _weighted(criteria: Sequence[Criterion], replies: Sequence[Response]) -> Judgment:
    read = [read_choice(reply) for reply in replies]
    failures = [failure for failure, _ in read if failure is not None]
    pairs = zip(criteria, replies, strict=True)
    total = math.fsum(criterion.weight * _yes(reply) for criterion, reply in pairs)
    return Judgment(
        total / math.fsum(criterion.weight for criterion in criteria),  # nan where one is not known
        off_option_mass=outcome.mean(mass for _, mass in read),
        failure=min(failures, default=None),
        **outcome.spent_on(replies),
    )
