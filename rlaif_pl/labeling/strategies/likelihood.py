"""Labels read off a small model's likelihoods: how well does the response let it guess the prompt?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Literal

from rlaif_pl.labeling.calls import Ask, Backend, Response
from rlaif_pl.labeling.outcome import Judgment, spent_on
from rlaif_pl.labeling.strategies import likelihood_terms
from rlaif_pl.labeling.strategies.likelihood_terms import TEMPLATE, Term, WeightedTerm
from rlaif_pl.labeling.strategies.scoring import ScoringLabeler, Texts
from rlaif_pl.models.backbone import EMBEDDED
from rlaif_pl.text import Template


class LikelihoodLabeler(ScoringLabeler):
    """Scores a response by log P(prompt | response) under a frozen language model.

    With ``pmi_weight`` w the score is ``log P(prompt | response) / tokens + w * PMI`` with
    ``PMI = (log P(response | prompt) - log P(response)) / tokens of the response``; ``terms`` makes
    it any weighted sum. There is no order of responses, hence no position bias. What was tried on real
    pairs, and how far it holds, is in docs/likelihood.md.

    Args:
        backend: Who gives the likelihoods: a back end, or the name of a model for ``LocalBackend``.
        temperature: ``p_first = sigmoid(margin / temperature)``, above 0. The default fits people's
            verdicts on whole TL;DR posts (0.104 on 100 pairs, embedded model, per token); shorter
            prompts have wider margins and want more (0.28 where cut to 60 words).
        normalize: ``token`` averages over the prompt's tokens, ``sum`` adds them up.
        pmi_weight: Weight of the response's own likelihood gain, at least 0; 0 leaves it out and
            saves two passes of three.
        max_prompt_words: Prompts are cut after this many words, at least 1; None reads them whole.
        template: Text with ``{response}`` and, at its end, ``{prompt}``, for the reconstruction.
        policy_template: How a response follows its prompt, for ``likelihood``, ``pmi`` and
            ``shared_information``; None takes what the model's folder says it was trained with, and
            TL;DR's frame where none does.
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
        policy_template: Template | None = None,
        terms: Sequence[WeightedTerm] | None = None,
    ) -> None:
        super().__init__(backend, temperature)
        if normalize not in ("token", "sum"):
            raise ValueError(f"normalize must be 'token' or 'sum', got {normalize!r}")
        if not (math.isfinite(pmi_weight) and pmi_weight >= 0):
            raise ValueError(f"pmi_weight must be finite and at least 0, got {pmi_weight}")
        if max_prompt_words is not None and max_prompt_words < 1:
            raise ValueError(
                "max_prompt_words must be at least 1, or null for whole prompts, got "
                f"{max_prompt_words}"
            )
        self.max_prompt_words = max_prompt_words
        if terms is None:
            terms = [WeightedTerm("reconstruction")]
            terms += [WeightedTerm("pmi", pmi_weight)] if pmi_weight else []
        elif not terms or pmi_weight:
            raise ValueError(
                f"expected at least one term, and PMI among the terms or as pmi_weight but not "
                f"both, got terms={list(terms)} and pmi_weight={pmi_weight}"
            )
        self._weighted, self._policy_template = list(terms), policy_template
        self._build = partial(likelihood_terms.build_term, template=template, normalize=normalize)
        for term in terms:
            self._build(term.kind)

    @cached_property
    def terms(self) -> list[tuple[float, Term]]:
        """Weights and terms; read where they are first needed, when the model's folder is there."""
        frame = likelihood_terms.DEFAULT
        if any(term.kind in likelihood_terms.FRAMED for term in self._weighted):
            frame = likelihood_terms.frame_of(
                self.backend, self._policy_template, self.max_prompt_words
            )
        return [(term.weight, self._build(term.kind, frame=frame)) for term in self._weighted]

    @property
    def prompt_version(self) -> str:
        """Terms of the score with their weights, and where prompts are cut."""
        names = [
            term.version if weight == 1.0 else f"{weight!r}*{term.version}"
            for weight, term in self.terms
        ]
        cut = "" if self.max_prompt_words is None else f"@{self.max_prompt_words}words"
        return "+".join(names) + cut

    def details(self, prompts: Texts, responses: Texts, ask: Ask | None = None) -> list[Judgment]:
        """Return scores in nats, or why there is none (``empty``, ``too_long``, ``nonfinite``)."""
        cut = [likelihood_terms.cut_prompt(prompt, self.max_prompt_words) for prompt in prompts]
        texts = list(zip(cut, (response.strip() for response in responses), strict=True))
        calls = [[term.calls(*own) for _, term in self.terms] for own in texts]
        replies = iter((ask or self.ask)([call for own in calls for part in own for call in part]))
        return [
            self._rating(own, [[next(replies) for _ in part] for part in asked])
            for own, asked in zip(texts, calls, strict=True)
        ]

    def _rating(self, texts: tuple[str, str], replies: Sequence[Sequence[Response]]) -> Judgment:
        flat = [reply for part in replies for reply in part]
        failure = next((reply.failure for reply in flat if reply.failure is not None), None)
        value = math.nan
        if failure is None:
            value = math.fsum(
                weight * term.value(*texts, part)
                for (weight, term), part in zip(self.terms, replies, strict=True)
            )
            failure = None if math.isfinite(value) else "nonfinite"
        return Judgment(value, failure=failure, **spent_on(flat))
