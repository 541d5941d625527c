"""The supervised stage of Constitutional AI: a model answers, criticizes itself and revises.

Bai et al. 2022, arXiv 2212.08073, section 3. Unlike the paper's, principles and examples are this
project's own, and a round whose critique or revision is unusable is counted and left out. The
reinforcement stage needs no code of its own (configs/methods/constitutional.yaml).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from rlaif_pl.data.revisions import HARMFUL, HELPFUL, Revision
from rlaif_pl.errors import at_least, one_of
from rlaif_pl.labeling.calls import Backend, Decoding, GenerateRequest, Question, Response, Watch
from rlaif_pl.labeling.strategy import CachedClient, ReplyCache
from rlaif_pl.recipes import revision_prompt
from rlaif_pl.types import Prompt

Cut = Literal["sentence", "keep", "drop"]
LAST_SENTENCE = re.compile(r"^.*[.!?][\"')\]]*(?=\s|$)", re.DOTALL)


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
        at_least(1, rounds=self.rounds, helpful_answers=self.helpful_answers)
        at_least(1, max_answer_tokens=self.max_answer_tokens)
        at_least(1, max_critique_tokens=self.max_critique_tokens)
        at_least(0, shots=self.shots, temperature=self.temperature, top_k=self.top_k)


class Reviser:
    """Answers prompts and revises the answers, round after round.

    Every reply is kept by what was asked, so a job that was killed ends with the very same texts.
    """

    def __init__(
        self,
        backend: Backend,
        options: RevisionOptions = RevisionOptions(),  # noqa: B008 - frozen
        store: ReplyCache | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.backend, self.options = backend, options
        self.store, self.watch = store, watch
        self.principles, principles_version = revision_prompt.load_principles(options.principles)
        texts, layout_version = revision_prompt.load_layout(options.layout)
        shown, examples_version = revision_prompt.load_examples(
            options.examples, self.principles, options.shots
        )
        told = options.critiques, options.chat_template
        self.layout = revision_prompt.RevisionLayout(texts, self.principles, shown, *told)
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
        """Answer prompts and revise the answers: a row a round of each prompt, round 0 first.

        Rounds that failed say why; a prompt whose first answer failed has no other.
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
        """Answer helpful prompts, ``helpful_answers`` times each: a row of round 0 each."""
        asker = CachedClient(self.backend, self.store, self.watch)
        counted = range(self.options.helpful_answers)
        drawn = [self._first(prompts, HELPFUL, asker, sample) for sample in counted]
        return [row for rows in zip(*drawn, strict=True) for row in rows]

    def _first(
        self, prompts: Sequence[Prompt], kind: str, asker: CachedClient, sample: int = 0
    ) -> list[Revision]:
        asked, limit = [self.layout.answer(p.text) for p in prompts], self.options.max_answer_tokens
        replies = self._ask(asked, limit, asker, self.layout.answer_stops, sample)
        return [
            self._row(Revision(each.group, each.text, kind, 0, ""), "answer", [reply])
            for each, reply in zip(prompts, replies, strict=True)
        ]

    def _round(self, rows: Sequence[Revision], number: int, asker: CachedClient) -> list[Revision]:
        options, layout = self.options, self.layout
        draw = partial(revision_prompt.draw_principle, self.principles, options.seed)
        drawn = [draw(row.group, row.prompt, number) for row in rows]
        told: list[Response | None] = [None] * len(rows)
        if options.critiques:
            pairs = zip(rows, drawn, strict=True)
            asked = [layout.critique(row.prompt, row.response, drew) for row, drew in pairs]
            told = [*self._ask(asked, options.max_critique_tokens, asker, layout.stops)]
        critiques = [None if reply is None else reply.text.strip() for reply in told]
        failures = [None if reply is None else self._failure("critique", reply) for reply in told]
        going = [n for n, failure in enumerate(failures) if failure is None]
        revise = layout.revision
        asked = [revise(rows[n].prompt, rows[n].response, drawn[n], critiques[n]) for n in going]
        replies = self._ask(asked, options.max_answer_tokens, asker, layout.stops)
        written = dict(zip(going, replies, strict=True))
        made = []
        for n, row in enumerate(rows):
            found = drawn[n].name, critiques[n], failures[n]
            blank = Revision(row.group, row.prompt, row.kind, number, "", *found, revises=row.round)
            spent = [reply for reply in (told[n], written.get(n)) if reply is not None]
            made.append(self._row(blank, "revision", spent, row.response))
        return made

    def _ask(
        self,
        questions: Sequence[Question],
        limit: int,
        asker: CachedClient,
        stops: tuple[str, ...],
        sample: int = 0,
    ) -> list[Response]:
        options = self.options
        decoding = Decoding(limit, options.temperature, options.top_k, stops, options.seed)
        return asker.ask([GenerateRequest(each, decoding, sample) for each in questions])

    def _row(
        self, blank: Revision, part: str, replies: Sequence[Response], revised: str | None = None
    ) -> Revision:
        """Fill in what came of a round; its last reply is the response."""
        failure = blank.failure or self._failure(part, replies[-1])
        text = "" if failure is not None else replies[-1].text.strip()
        return replace(
            blank,
            response=text,
            failure=failure,
            finished=failure is not None or replies[-1].finished,
            unchanged=failure is None and text == revised,
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


@dataclass(frozen=True, slots=True)
class Demonstrations:
    """What a policy is fine-tuned on, with an account of what was left out."""

    rows: list[Prompt]  # prompts with references: revisions, then helpful answers
    revised: int  # number of rows that are revisions
    dropped: dict[str, int] = field(default_factory=dict)  # reason to number of responses left out


def whole_sentences(text: str) -> str:
    """Return the text up to its last full sentence; nothing where it has none."""
    found = LAST_SENTENCE.search(text)
    return found[0].strip() if found else ""


def demonstrations(
    revisions: Sequence[Revision],
    helpful: Sequence[Prompt] = (),
    *,
    only_last: bool = False,
    cut: Cut = "sentence",
) -> Demonstrations:
    """Take all revisions of harmful prompts, or only each one's last, and helpful answers as they are.

    First answers to harmful prompts are never taken, nor revisions that changed nothing. What the
    length limit ``cut`` ends with its last full ``sentence`` (or is left out, lest a policy learn to
    stop within one); ``keep`` takes it, marked so that its end is not taught, ``drop`` does not.
    """
    one_of(Cut, cut=cut)
    dropped: Counter[str] = Counter()
    changed = (row for row in revisions if row.failure is None and not row.unchanged)
    last = {(row.group, row.prompt): row.round for row in changed}
    rows: dict[Prompt, None] = {}
    for row in revisions:
        text, is_revision = row.response, row.kind == HARMFUL
        if not row.finished and cut != "keep":
            text = whole_sentences(text) if cut == "sentence" else ""
        mark = {"is_finished": False} if cut == "keep" and not row.finished else {}
        demonstration = Prompt(row.prompt, row.group, text, mark)
        if is_revision and row.round == 0:
            continue
        if row.failure is not None:
            dropped[row.failure] += 1
        elif row.unchanged:
            dropped["unchanged"] += 1
        elif is_revision and only_last and row.round != last[row.group, row.prompt]:
            dropped["not the last"] += 1
        elif not text:
            dropped["cut by the length limit"] += 1
        elif demonstration in rows:
            dropped["repeats an earlier one"] += 1
        else:
            rows[demonstration] = None
    harmful = {(row.group, row.prompt) for row in revisions if row.kind == HARMFUL}
    revised = sum((row.group, row.text) in harmful for row in rows)
    return Demonstrations([*rows, *helpful], revised, dict(dropped))
