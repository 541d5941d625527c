"""The supervised stage of Constitutional AI: a model answers, criticizes itself and revises.

Bai et al. 2022, arXiv 2212.08073, section 3: answers to harmful requests are criticized by a
principle and revised, several times, with a principle drawn anew each time; all revisions are then
what a model is fine-tuned on, together with helpful answers. What differs from the paper: principles
and examples are this project's own; a round whose critique or revision is unusable is counted and
left out, and the next goes on from the last response there is.

The reinforcement stage needs no code of its own: ``label`` with a ``ConstitutionLabeler``, ``fit`` of a
reward model on its labels and people's, ``fit`` of A2C (configs/methods/constitutional.yaml).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlaif_pl.data.revisions import HARMFUL, HELPFUL, Revision
from rlaif_pl.labeling.calls import (
    Backend,
    Decoding,
    GenerateRequest,
    Question,
    Response,
    Watch,
)
from rlaif_pl.labeling.strategy import CachedClient, ReplyCache
from rlaif_pl.recipes.revision_prompt import (
    Principle,
    RevisionLayout,
    draw_principle,
    load_examples,
    load_layout,
    load_principles,
)
from rlaif_pl.types import Prompt


@dataclass(frozen=True)
class RevisionOptions:
    """How answers are criticized and revised.

    Attributes:
        rounds: Rounds of critique and revision, at least 1; the paper makes 4.
        critiques: Ask for a critique before each revision. Without, a round is one call; the paper
            finds that worse for small models and about equal for large ones.
        principles: Name or path of a YAML list of principles (name, critique, revision).
        layout: Name or path of a YAML file with labels and preambles.
        examples: Name or path of a YAML list of examples.
        shots: Examples shown, at least 0.
        max_answer_tokens: Length limit of answers and revisions.
        max_critique_tokens: Length limit of critiques.
        temperature: Divides the logits; 0 is greedy. The paper samples at 1.
        top_k: Only this many likeliest tokens are drawn from; 0 takes all.
        chat_template: Ask through the model's chat template.
        helpful_answers: Answers to each helpful prompt that has no reference, at least 1.
        seed: Decides the principles and seeds the drawing.
    """

    rounds: int = 4
    critiques: bool = True
    principles: str = "revision-principles-1"
    layout: str = "revision-1"
    examples: str = "exemplars-revision-1"
    shots: int = 3
    max_answer_tokens: int = 128
    max_critique_tokens: int = 96
    temperature: float = 1.0
    top_k: int = 0
    chat_template: bool = False
    helpful_answers: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rounds", "max_answer_tokens", "max_critique_tokens", "helpful_answers"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        for name in ("shots", "temperature", "top_k"):
            if getattr(self, name) < 0:
                raise ValueError(f"expected {name} of at least 0, got {getattr(self, name)}")


class Reviser:
    """Answers prompts and revises the answers, round after round.

    Every call is keyed by what is asked and kept in the store of replies, so a job that was killed
    asks only for what is missing and ends with the very same texts.
    """

    def __init__(
        self,
        backend: Backend,
        options: RevisionOptions = RevisionOptions(),  # noqa: B008 - frozen
        store: ReplyCache | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.backend = backend
        self.options = options
        self.store = store
        self.watch = watch
        self.principles, principles_version = load_principles(options.principles)
        texts, layout_version = load_layout(options.layout)
        shown, examples_version = load_examples(options.examples, self.principles, options.shots)
        self.layout = RevisionLayout(
            texts, self.principles, shown, options.critiques, options.chat_template
        )
        self.prompt_version = (
            f"{layout_version}+{principles_version}+shots={options.shots}:{examples_version}"
            f"+critiques={int(options.critiques)}+max={options.max_answer_tokens},"
            f"{options.max_critique_tokens}+T={options.temperature!r},k={options.top_k}"
            f"+seed={options.seed}" + "+chat" * options.chat_template
        )

    def calls(self, harmful: int, helpful: int) -> int:
        """Count the calls that so many harmful and unanswered helpful prompts take at most."""
        per_round = 2 if self.options.critiques else 1
        revised = harmful * (1 + per_round * self.options.rounds)
        return revised + helpful * self.options.helpful_answers

    def revise(self, prompts: Sequence[Prompt]) -> list[Revision]:
        """Answer prompts and revise the answers.

        A row for every round of every prompt, round 0 first, prompts in order; rounds that failed say
        why. A prompt whose first answer failed has no rounds.
        """
        asker = CachedClient(self.backend, self.store, self.watch)
        latest = self._first(prompts, HARMFUL, asker)
        history = [[row] for row in latest]
        for number in range(1, self.options.rounds + 1):
            going = [n for n, row in enumerate(latest) if row.failure is None]
            made = self._round([latest[n] for n in going], number, asker)
            for n, row in zip(going, made, strict=True):
                history[n].append(row)
                if row.failure is None:
                    latest[n] = row
        return [row for rows in history for row in rows]

    def answer(self, prompts: Sequence[Prompt]) -> list[Revision]:
        """Answer helpful prompts, ``helpful_answers`` times each; nothing is revised.

        A row an answer, each with what it took, also where two are equal; ``round`` is 0 for every one.
        """
        asker = CachedClient(self.backend, self.store, self.watch)
        counted = range(self.options.helpful_answers)
        drawn = [self._first(prompts, HELPFUL, asker, sample) for sample in counted]
        return [row for rows in zip(*drawn, strict=True) for row in rows]

    def _first(
        self, prompts: Sequence[Prompt], kind: str, asker: CachedClient, sample: int = 0
    ) -> list[Revision]:
        decoding = self._decoding(self.options.max_answer_tokens, self.layout.answer_stops)
        asked = [
            GenerateRequest(self.layout.answer(each.text), decoding, sample) for each in prompts
        ]
        return [
            self._row(Revision(each.group, each.text, kind, 0, ""), "answer", [reply])
            for each, reply in zip(prompts, asker.ask(asked), strict=True)
        ]

    def _round(self, rows: Sequence[Revision], number: int, asker: CachedClient) -> list[Revision]:
        drawn = [
            draw_principle(self.principles, self.options.seed, row.group, row.prompt, number)
            for row in rows
        ]
        critiques: Sequence[Response | None] = [None] * len(rows)
        if self.options.critiques:
            asked = [
                self.layout.critique(row.prompt, row.response, principle)
                for row, principle in zip(rows, drawn, strict=True)
            ]
            critiques = self._ask(asked, self.options.max_critique_tokens, asker)
        begun = [
            self._begun(row, number, principle, critique)
            for row, principle, critique in zip(rows, drawn, critiques, strict=True)
        ]
        going = [n for n, row in enumerate(begun) if row.failure is None]
        asked = [
            self.layout.revision(row.prompt, row.response, principle, blank.critique)
            for row, principle, blank in ((rows[n], drawn[n], begun[n]) for n in going)
        ]
        replies = self._ask(asked, self.options.max_answer_tokens, asker)
        written = dict(zip(going, replies, strict=True))
        made = []
        for n, blank in enumerate(begun):
            spent = [reply for reply in (critiques[n], written.get(n)) if reply is not None]
            made.append(self._row(blank, "revision", spent, revises=rows[n].response))
        return made

    def _begun(
        self, row: Revision, number: int, principle: Principle, critique: Response | None
    ) -> Revision:
        return Revision(
            row.group,
            row.prompt,
            row.kind,
            number,
            response="",
            principle=principle.name,
            critique=None if critique is None else critique.text.strip(),
            failure=None if critique is None else self._failure("critique", critique),
            revises=row.round,
        )

    def _ask(
        self, questions: Sequence[Question], limit: int, asker: CachedClient
    ) -> list[Response]:
        decoding = self._decoding(limit, self.layout.stops)
        return asker.ask([GenerateRequest(question, decoding) for question in questions])

    def _decoding(self, limit: int, stops: tuple[str, ...]) -> Decoding:
        options = self.options
        return Decoding(limit, options.temperature, options.top_k, stops, options.seed)

    def _row(
        self, blank: Revision, part: str, replies: Sequence[Response], revises: str | None = None
    ) -> Revision:
        """Fill in what came of a round; its last reply is the response."""
        failure = blank.failure or self._failure(part, replies[-1])
        text = "" if failure is not None else replies[-1].text.strip()
        return replace(
            blank,
            response=text,
            failure=failure,
            finished=failure is not None or replies[-1].finished,
            unchanged=failure is None and text == revises,
            backend=self.backend.fingerprint,
            prompt_version=self.prompt_version,
            read=sum(reply.read for reply in replies),
            written=sum(reply.written for reply in replies),
            cost_usd=sum(reply.cost_usd for reply in replies),
        )

    def _failure(self, part: str, reply: Response) -> str | None:
        """Say why a reply is no answer, critique or revision; None if it is."""
        if reply.failure is not None:
            return f"{part}_{reply.failure}"
        if not reply.text.strip():
            return f"{part}_empty"
        return f"{part}_malformed" if self.layout.is_malformed(reply.text) else None
