"""Labels read off a small model's likelihoods: how well does the response let it guess the prompt?

A model of 135M parameters answers at chance when asked which of two summaries is better, but the
likelihood it gives the post after reading a summary agrees with people well above chance. So the
score of a response is the log-probability of the prompt's tokens after the response
("reconstruction"), and the margin of a pair is the difference of two scores. There is no order,
hence no position bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from rlaif_pl.labeling.backends import as_backend
from rlaif_pl.labeling.calls import Ask, Backend, LoglikelihoodRequest, Response
from rlaif_pl.labeling.outcome import Judgment
from rlaif_pl.labeling.strategies.likelihood_terms import (
    TEMPLATE,
    Term,
    WeightedTerm,
    build_term,
    split_template,
)
from rlaif_pl.labeling.strategy import ModelLabeler
from rlaif_pl.models.backbone import EMBEDDED
from rlaif_pl.text import truncate_words
from rlaif_pl.types import Preference


class LikelihoodScore(NamedTuple):
    """Score of one response and what it took."""

    value: float  # nats, nan where there is none
    tokens: int
    written: int  # of these
    cost_usd: float
    failure: str | None


class LikelihoodLabeler(ModelLabeler):
    """Scores a response by log P(prompt | response) under a frozen language model.

    With ``pmi_weight`` w the score is ``log P(prompt | response) / tokens + w * PMI`` with
    ``PMI = (log P(response | prompt) - log P(response)) / tokens of the response``; ``terms`` makes
    it any weighted sum. What was tried on real pairs, and how far it holds, is in docs/likelihood.md.

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
        terms: Summands of the score; None stands for the reconstruction, and PMI where
            ``pmi_weight`` is above 0.
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
        terms: Sequence[WeightedTerm] | None = None,
    ) -> None:
        super().__init__(as_backend(backend), temperature)
        if normalize not in ("token", "sum"):
            raise ValueError(f"normalize must be 'token' or 'sum', got {normalize!r}")
        if not (math.isfinite(pmi_weight) and pmi_weight >= 0):
            raise ValueError(f"pmi_weight must be finite and at least 0, got {pmi_weight}")
        split_template(template)
        self.max_prompt_words = max_prompt_words
        if terms is None:
            terms = [WeightedTerm("reconstruction")]
            terms += [WeightedTerm("pmi", pmi_weight)] if pmi_weight else []
        elif not terms or pmi_weight:
            raise ValueError(
                f"expected at least one term, and PMI among the terms or as pmi_weight but not "
                f"both, got terms={list(terms)} and pmi_weight={pmi_weight}"
            )
        self.terms: list[tuple[float, Term]] = [
            (term.weight, build_term(term.kind, template, normalize)) for term in terms
        ]

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
                written=first.written + second.written,
                cost_usd=first.cost_usd + second.cost_usd,
                failure=first.failure or second.failure,
            )
            for first, second in zip(ratings[: len(pairs)], ratings[len(pairs) :], strict=True)
        ]

    def details(self, prompts: Sequence[str], responses: Sequence[str]) -> list[LikelihoodScore]:
        """Return scores with token counts and failures (``empty``, ``too_long``, ``nonfinite``).

        Each different text is read once in the life of this labeler.
        """
        return self._rate(prompts, responses, self.asker.ask)

    def _rate(
        self, prompts: Sequence[str], responses: Sequence[str], ask: Ask
    ) -> list[LikelihoodScore]:
        """Ask for every term of every response at once."""
        texts = list(zip(prompts, responses, strict=True))
        calls = [self._calls(*own) for own in texts]
        replies = iter(ask([call for own in calls for part in own for call in part]))
        return [
            self._rating(self._texts(*own), [[next(replies) for _ in part] for part in asked])
            for own, asked in zip(texts, calls, strict=True)
        ]

    def _calls(self, prompt: str, response: str) -> list[list[LoglikelihoodRequest]]:
        """Return the calls of each term."""
        return [term.calls(*self._texts(prompt, response)) for _, term in self.terms]

    def _texts(self, prompt: str, response: str) -> tuple[str, str]:
        """Return prompt and response as the terms see them."""
        text, limit = prompt.strip(), self.max_prompt_words
        return text if limit is None else truncate_words(text, limit), response.strip()

    def _rating(
        self, texts: tuple[str, str], replies: Sequence[Sequence[Response]]
    ) -> LikelihoodScore:
        """Add the terms up."""
        flat = [reply for part in replies for reply in part]
        written = sum(reply.written for reply in flat)
        tokens = sum(reply.read for reply in flat) + written
        cost = math.fsum(reply.cost_usd for reply in flat)
        failure = next((reply.failure for reply in flat if reply.failure is not None), None)
        if failure is not None:
            return LikelihoodScore(math.nan, tokens, written, cost, failure)
        value = math.fsum(
            weight * term.value(*texts, part)
            for (weight, term), part in zip(self.terms, replies, strict=True)
        )
        failure = None if math.isfinite(value) else "nonfinite"
        return LikelihoodScore(value, tokens, written, cost, failure)
