"""Labels read off a small model's likelihoods: how well does the response let it guess the prompt?

A model of 135M parameters answers at chance when asked which of two summaries is better, but the
likelihood it gives the post after reading a summary agrees with people well above chance. So the
score of a response is the log-probability of the prompt's tokens after the response
("reconstruction"), and the margin of a pair is the difference of two scores. There is no order,
hence no position bias.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from rlaif_pl.labeling.backends import as_backend
from rlaif_pl.labeling.calls import Ask, Backend, Reply, Score
from rlaif_pl.labeling.outcome import Judgment
from rlaif_pl.labeling.strategy import ModelLabeler
from rlaif_pl.models.backbone import EMBEDDED
from rlaif_pl.text import truncate_words
from rlaif_pl.types import Preference

TEMPLATE = "TL;DR: {response}\n\nPOST: {prompt}"
VERSION = "reconstruction-1"  # raise with TEMPLATE
CONDITION = "POST: {prompt}\n\nTL;DR:"
NO_CONDITION = "TL;DR:"
PMI_VERSION = "pmi-1"  # raise with the two above


class Rating(NamedTuple):
    """Score of one response and what it took."""

    value: float  # nats, nan where there is none
    tokens: int
    cost_usd: float
    failure: str | None


class Term(Protocol):
    """One summand of a score."""

    @property
    def version(self) -> str:
        """Name with version, and with every setting that can change a value."""

    def calls(self, prompt: str, response: str) -> list[Score]:
        """Return what the model is asked; always as many calls."""

    def value(self, replies: Sequence[Reply]) -> float:
        """Return the summand in nats of the calls' replies, none of which failed."""


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """``log P(prompt | response)``, per token or summed up.

    Context and prompt are tokenized apart (the prompt with the white space before it) and joined,
    so both responses of a pair are scored on exactly the same tokens of the prompt.

    Attributes:
        template: Text with ``{response}`` and, at its end, ``{prompt}``.
        normalize: ``token`` or ``sum``.
    """

    template: str = TEMPLATE
    normalize: str = "token"

    @property
    def version(self) -> str:
        """See ``Term``; a template of the user's own is named by its hash."""
        version = VERSION
        if self.template != TEMPLATE:
            version = "custom-" + hashlib.sha256(self.template.encode()).hexdigest()[:12]
        return version if self.normalize == "token" else f"{version}-{self.normalize}"

    def calls(self, prompt: str, response: str) -> list[Score]:
        """See ``Term``."""
        context, target = split_template(self.template)
        context = context.replace("{response}", response)
        return [Score(context, target.replace("{prompt}", prompt) if prompt else "")]

    def value(self, replies: Sequence[Reply]) -> float:
        """See ``Term``."""
        total = total_of(replies[0])
        return total / len(replies[0].logprobs) if self.normalize == "token" else total


@dataclass(frozen=True, slots=True)
class Pmi:
    """``(log P(response | prompt) - log P(response)) / tokens of the response``.

    A garbled response that names the right words is likely to be found out by it.
    """

    @property
    def version(self) -> str:
        """See ``Term``."""
        return PMI_VERSION

    def calls(self, prompt: str, response: str) -> list[Score]:
        """See ``Term``."""
        target = f" {response}" if response else ""
        return [Score(CONDITION.replace("{prompt}", prompt), target), Score(NO_CONDITION, target)]

    def value(self, replies: Sequence[Reply]) -> float:
        """See ``Term``."""
        given, alone = replies
        return (total_of(given) - total_of(alone)) / len(given.logprobs)


class LikelihoodLabeler(ModelLabeler):
    """Scores a response by log P(prompt | response) under a frozen language model.

    With ``pmi_weight`` w the score is ``log P(prompt | response) / tokens + w * PMI`` with
    ``PMI = (log P(response | prompt) - log P(response)) / tokens of the response``.

    Args:
        backend: Who gives the likelihoods: a back end, or the name of a model for ``LocalBackend``.
        temperature: ``p_first = sigmoid(margin / temperature)``, above 0. The default fits people's
            verdicts on whole TL;DR posts (0.104 on 100 pairs, embedded model, per token); shorter
            prompts have wider margins and want more (0.28 where cut to 60 words).
        normalize: ``token`` averages over the prompt's tokens, ``sum`` adds them up.
        pmi_weight: Weight of the response's own likelihood gain, at least 0; 0 leaves it out and
            saves two passes of three.
        max_prompt_words: Prompts are cut after this many words; None reads them whole.
        template: Text with ``{response}`` and, at its end, ``{prompt}``.
    """

    strategy = "likelihood"

    def __init__(
        self,
        backend: Backend | str = EMBEDDED,
        *,
        temperature: float = 0.1,
        normalize: Literal["token", "sum"] = "token",
        pmi_weight: float = 0.0,
        max_prompt_words: int | None = None,
        template: str = TEMPLATE,
    ) -> None:
        super().__init__(as_backend(backend), temperature)
        if normalize not in ("token", "sum"):
            raise ValueError(f"normalize must be 'token' or 'sum', got {normalize!r}")
        if not (math.isfinite(pmi_weight) and pmi_weight >= 0):
            raise ValueError(f"pmi_weight must be finite and at least 0, got {pmi_weight}")
        split_template(template)
        self.max_prompt_words = max_prompt_words
        self.terms: list[tuple[float, Term]] = [(1.0, Reconstruction(template, normalize))]
        if pmi_weight:
            self.terms.append((pmi_weight, Pmi()))

    @property
    def prompt_version(self) -> str:
        """Terms of the score with their weights, and where prompts are cut."""
        names = [
            term.version if weight == 1.0 else f"{weight!r}*{term.version}"
            for weight, term in self.terms
        ]
        cut = "" if self.max_prompt_words is None else f"@{self.max_prompt_words}words"
        return "+".join(names) + cut

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return each response's score in nats; nan where there is none."""
        return [rating.value for rating in self.details(prompts, responses)]

    def judge(self, pairs: Sequence[Preference], ask: Ask) -> list[Judgment]:
        """Judge pairs by the difference of their scores."""
        prompts = [pair.prompt for pair in pairs]
        both = [pair.first for pair in pairs] + [pair.second for pair in pairs]
        ratings = self._rate(prompts * 2, both, ask)
        return [
            Judgment(
                margin=first.value - second.value,
                tokens=first.tokens + second.tokens,
                cost_usd=first.cost_usd + second.cost_usd,
                failure=first.failure or second.failure,
            )
            for first, second in zip(ratings[: len(pairs)], ratings[len(pairs) :], strict=True)
        ]

    def details(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Rating]:
        """Return scores with token counts and failures (``empty``, ``too_long``, ``nonfinite``).

        Each different text is read once in the life of this labeler.
        """
        return self._rate(prompts, responses, self.asker.ask)

    def _rate(self, prompts: Sequence[str], responses: Sequence[str], ask: Ask) -> list[Rating]:
        """Ask for every term of every response at once."""
        calls = [self._calls(*texts) for texts in zip(prompts, responses, strict=True)]
        replies = iter(ask([call for own in calls for part in own for call in part]))
        return [self._rating([[next(replies) for _ in part] for part in own]) for own in calls]

    def _calls(self, prompt: str, response: str) -> list[list[Score]]:
        """Return the calls of each term."""
        text, limit = prompt.strip(), self.max_prompt_words
        text = text if limit is None else truncate_words(text, limit)
        return [term.calls(text, response.strip()) for _, term in self.terms]

    def _rating(self, replies: Sequence[Sequence[Reply]]) -> Rating:
        """Add the terms up."""
        flat = [reply for part in replies for reply in part]
        tokens, cost = sum(r.read + r.written for r in flat), math.fsum(r.cost_usd for r in flat)
        failure = next((reply.failure for reply in flat if reply.failure is not None), None)
        if failure is not None:
            return Rating(math.nan, tokens, cost, failure)
        value = math.fsum(
            weight * term.value(part)
            for (weight, term), part in zip(self.terms, replies, strict=True)
        )
        return Rating(value, tokens, cost, None if math.isfinite(value) else "nonfinite")


def total_of(reply: Reply) -> float:
    """Log-probability of a whole target in nats; nan where the server left a token out."""
    return math.fsum(math.nan if value is None else value for value in reply.logprobs)


def split_template(template: str) -> tuple[str, str]:
    """Cut a template into the context and the scored part, white space going to the latter.

    Raises:
        ValueError: A field is missing or repeated, or ``{prompt}`` is not last.
    """
    counts = (template.count("{response}"), template.count("{prompt}"))
    if counts != (1, 1) or not template.endswith("{prompt}"):
        raise ValueError(
            "template must contain {response} once and end with {prompt}, "
            f"got {template!r}; everything before {{prompt}} is context"
        )
    context = template.removesuffix("{prompt}")
    bare = context.rstrip(" ")
    return bare, context[len(bare) :] + "{prompt}"
