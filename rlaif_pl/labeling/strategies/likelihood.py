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
from typing import Literal

from rlaif_pl.labeling.calls import Ask, Backend, Response
from rlaif_pl.labeling.outcome import Judgment
from rlaif_pl.labeling.prompting.orders import Spent
from rlaif_pl.labeling.strategies.likelihood_terms import (
    TEMPLATE,
    Term,
    WeightedTerm,
    build_term,
)
from rlaif_pl.labeling.strategies.pointwise import ScoringLabeler
from rlaif_pl.models.backbone import EMBEDDED
from rlaif_pl.text import truncate_words


class LikelihoodLabeler(ScoringLabeler):
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
        super().__init__(backend, temperature)
        if normalize not in ("token", "sum"):
            raise ValueError(f"normalize must be 'token' or 'sum', got {normalize!r}")
        if not (math.isfinite(pmi_weight) and pmi_weight >= 0):
            raise ValueError(f"pmi_weight must be finite and at least 0, got {pmi_weight}")
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

    def details(
        self, prompts: Sequence[str], responses: Sequence[str], ask: Ask | None = None
    ) -> list[Judgment]:
        """Return scores in nats, or why there is none (``empty``, ``too_long``, ``nonfinite``).

        Each different text is read once in the life of this labeler.
        """
        limit, cut = self.max_prompt_words, [prompt.strip() for prompt in prompts]
        cut = cut if limit is None else [truncate_words(prompt, limit) for prompt in cut]
        texts = list(zip(cut, (response.strip() for response in responses), strict=True))
        calls = [[term.calls(*own) for _, term in self.terms] for own in texts]
        replies = iter((ask or self.ask)([call for own in calls for part in own for call in part]))
        return [
            self._rating(own, [[next(replies) for _ in part] for part in asked])
            for own, asked in zip(texts, calls, strict=True)
        ]

    def _rating(self, texts: tuple[str, str], replies: Sequence[Sequence[Response]]) -> Judgment:
        flat = [reply for part in replies for reply in part]
        spent = Spent.of(flat)
        failure = next((reply.failure for reply in flat if reply.failure is not None), None)
        if failure is not None:
            return spent.judgment(failure=failure)
        value = math.fsum(
            weight * term.value(*texts, part)
            for (weight, term), part in zip(self.terms, replies, strict=True)
        )
        return spent.judgment(value, failure=None if math.isfinite(value) else "nonfinite")
