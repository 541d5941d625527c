"""Labelers that are asked which of two responses is better, in both orders."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from rlaif_pl.labeling import outcome
from rlaif_pl.labeling.calls import (
    Ask,
    Backend,
    ChoiceRequest,
    Decoding,
    GenerateRequest,
    Question,
    Response,
)
from rlaif_pl.labeling.outcome import Judgment, VerdictOptions
from rlaif_pl.labeling.prompting import templates
from rlaif_pl.labeling.prompting.extraction import continued_verdict
from rlaif_pl.labeling.prompting.layout import Layout, PromptSample, load_exemplars
from rlaif_pl.labeling.prompting.templates import PRINCIPLED, load_prompt
from rlaif_pl.labeling.prompting.verdicts import ChainOfThought, Order, combine
from rlaif_pl.labeling.strategy import ModelLabeler
from rlaif_pl.labeling.thinking import Thinking
from rlaif_pl.models.backbone import EMBEDDED
from rlaif_pl.types import Preference

Task = Literal["summarization", "helpful", "harmless"]
Preamble = Literal["base", "detailed"]


class VerdictLabeler(ModelLabeler):
    """Asks for the verdict on each pair in both orders, after a rationale where ``cot`` says how."""

    def lay_out(self, layout: Layout, cot: bool | ChainOfThought) -> None:
        """Set how to ask; rationales are drawn greedily where ``cot`` is true."""
        self.layout = layout
        self.cot = ChainOfThought() if cot is True else cot or None

    @property
    def prompt_version(self) -> str:
        """See ``ModelLabeler``."""
        drawn = f"+{self.cot.version}" if self.cot else ""
        return self.layout.version + drawn + outcome.label_version(self.hard, self.clamp)

    def judge(self, pairs: Sequence[Preference], ask: Ask) -> list[Judgment]:
        """Judge pairs in order by both orders' verdicts."""
        results = [(Order(), Order()) for _ in pairs]
        flat = [
            (order, sample)
            for both, pair in zip(results, pairs, strict=True)
            for order, sample in zip(both, self.layout.both_orders(pair), strict=True)
        ]
        if self.cot is None:
            asked = [(order, self.layout.verdict(sample)) for order, sample in flat]
        else:
            asked = self._reasoned(flat, self.cot, ask)
        replies = ask([ChoiceRequest(question, self.layout.options) for _, question in asked])
        for (order, _), reply in zip(asked, replies, strict=True):
            order.add_verdict(reply)
        return [combine(*both, self.layout.prompt.asks_worse) for both in results]

    def _reasoned(
        self, flat: Sequence[tuple[Order, PromptSample]], cot: ChainOfThought, ask: Ask
    ) -> list[tuple[Order, Question]]:
        """Have rationales written; those that failed are counted in their order."""
        decoding = replace(cot.decoding, stop=self.layout.stops)
        wanted = [(order, each, number) for order, each in flat for number in range(cot.samples)]
        requests = [GenerateRequest(self.layout.reasoning(s), decoding, n) for _, s, n in wanted]
        asked = []
        for (order, sample, _), reply in zip(wanted, ask(requests), strict=True):
            order.replies.append(reply)
            if reply.failure is None and reply.text.strip():
                asked.append((order, self.layout.verdict_after(sample, reply.text)))
            else:
                order.failures.append(reply.failure or "empty_rationale")
        return asked


class PairwiseLabeler(VerdictLabeler):
    """Asks which of two responses is better, in both orders (arXiv 2309.00267, section 2.1).

    Args:
        backend: Who answers; a name is that of a model on this machine.
        task: What is judged; ``harmless`` asks for the more harmful one and turns the answer around.
        preamble: ``base`` only says what to do, ``detailed`` also what a good response is.
        prompt: Name or path of a prompt file, in place of the one for task and preamble.
        shots: Number of examples shown before the sample.
        exemplars: Name or path of a file with examples, in place of the task's.
        cot: Have a rationale written first and read the verdict after it (two calls an order): true for
            a greedy one, or how to draw one or several. Of several, a pair is labeled where more than
            half came about in each order.
        tie: Allow a third answer, that there is no difference; half of its probability counts for each
            side, and ``tie_mass`` keeps how much it was.
        verdict: One-hot or clamped labels; least probability of the options together.
        chat_template: Ask through the model's chat template; the ending opens the answer.
        thinking: Have the model think before each verdict, whose probabilities are then read as ever;
            needs ``chat_template`` and a model that thinks. None asks without thoughts.
        temperature: ``p_first = sigmoid(margin / temperature)``, above 0, where the margin is the
            log-odds of the averaged probability; 1 gives the paper's labels.
    """

    strategy = "pairwise"

    def __init__(
        self,
        backend: Backend | str = EMBEDDED,
        *,
        task: Task = "summarization",
        preamble: Preamble = "detailed",
        prompt: str | None = None,
        shots: int = 0,
        exemplars: str | None = None,
        cot: bool | ChainOfThought = False,
        tie: bool = False,
        verdict: VerdictOptions = VerdictOptions(),  # noqa: B008 - frozen
        chat_template: bool = False,
        thinking: Thinking | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(backend, temperature, verdict, thinking, chat_template)
        if thinking is not None and cot:
            raise ValueError(
                "expected cot: false with thinking, got true: the thoughts are the rationale; leave "
                "one out"
            )
        shown = load_exemplars(exemplars or f"exemplars-{task}-1", shots, bool(cot))
        file = load_prompt(prompt or f"{task}-{preamble}-1")
        self.lay_out(Layout(file, shown, shots, bool(cot), chat_template, tie=tie), cot)


COT_CLAMP = (0.4, 0.6)  # 2212.08073, section 4.1: a model that has reasoned is nearly certain


class ConstitutionLabeler(VerdictLabeler):
    """Asks which response answers a drawn principle better (arXiv 2212.08073, section 4).

    Other than there, both orders are asked and averaged, and the principles are this project's own.

    Args:
        backend: Who answers; a name is that of a model on this machine.
        principles: Name or path of a YAML list of questions that the better response must answer.
        prompt: Name or path of a prompt file whose sample has ``{principle}``.
        shots: Number of examples shown before the sample, each with a principle of its own.
        exemplars: Name or path of a file with examples.
        cot: Have a rationale written first and read the verdict after it; see ``PairwiseLabeler``.
        seed: Decides which principle a pair gets.
        verdict: One-hot or clamped labels (by default clamped to 0.4 .. 0.6 with ``cot``); least
            probability of the options together.
        chat_template: Ask through the model's chat template; the ending opens the answer.
        temperature: ``p_first = sigmoid(margin / temperature)``, above 0.
    """

    strategy = "constitution"

    def __init__(
        self,
        backend: Backend | str = EMBEDDED,
        *,
        principles: str = "principles-1",
        prompt: str = "constitution-1",
        shots: int = 0,
        exemplars: str = "exemplars-harmless-1",
        cot: bool | ChainOfThought = False,
        seed: int = 0,
        verdict: VerdictOptions = VerdictOptions(),  # noqa: B008 - frozen
        chat_template: bool = False,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(backend, temperature, verdict, chat=chat_template)
        self.clamp = verdict.limits(COT_CLAMP if cot else None)
        self.principles, self.principles_version = load_principles(principles)
        self.seed = seed
        shown = load_exemplars(exemplars, shots, bool(cot))
        file = load_prompt(prompt, PRINCIPLED)
        self.lay_out(Layout(file, shown, shots, bool(cot), chat_template, self.principle), cot)

    @property
    def prompt_version(self) -> str:
        """See ``ModelLabeler``."""
        return f"{super().prompt_version}+{self.principles_version},seed={self.seed}"

    def principle(self, prompt: str, first: str, second: str) -> str:
        """Draw the principle of a pair: decided by the seed and the texts, not by their order."""
        texts = json.dumps([self.seed, prompt, *sorted([first, second])])
        digest = hashlib.blake2b(texts.encode(), digest_size=8).digest()
        return self.principles[int.from_bytes(digest, "big") % len(self.principles)]


def load_principles(name: str) -> tuple[tuple[str, ...], str]:
    """Load principles by name or path, with their version. ``ValueError``: not different texts."""
    content, version = templates.read_versioned(name, ".yaml")
    rows = templates.parse_yaml(content, version)
    if not (rows and templates.is_texts(rows) and len(set(rows)) == len(rows)):
        raise ValueError(
            f"expected {version} to be a YAML list of different questions, got {str(rows)[:60]!r}"
        )
    return tuple(row.strip() for row in rows), version


RULES = "rules-7"  # raise when continued_verdict reads some answer differently
SHARES = {"first": 1.0, "second": 0.0, "tie": 0.5}  # of slot 1


class FreeFormLabeler(ModelLabeler):
    """Has verdicts written in both orders and labels with 1, 0, or 0.5 where the orders disagree.

    An answer without a verdict is a failure of its kind (``refused``, ``both``, ``neither``,
    ``malformed``, ``empty``, ``unclosed_thought``), never a label; one that calls the responses equal
    counts as a half.

    Args:
        backend: Who answers; a name is that of a model on this machine.
        task: What is judged; ``harmless`` asks for the more harmful one and turns the answer around.
        prompt: Name or path of a prompt file, in place of the task's.
        shots: Number of examples shown before the sample.
        exemplars: Name or path of a file with examples, in place of the task's.
        max_answer_tokens: Length limit of an answer, at least 1; a longer one is cut and read.
        chat_template: Ask through the model's chat template; the ending opens the answer.
    """

    strategy = "free_form"

    def __init__(
        self,
        backend: Backend | str = EMBEDDED,
        *,
        task: Task = "summarization",
        prompt: str | None = None,
        shots: int = 0,
        exemplars: str | None = None,
        max_answer_tokens: int = 64,
        chat_template: bool = False,
    ) -> None:
        super().__init__(backend, 1.0, chat=chat_template)
        if max_answer_tokens < 1:
            raise ValueError(f"expected max_answer_tokens of at least 1, got {max_answer_tokens}")
        shown = load_exemplars(exemplars or f"exemplars-{task}-1", shots, False)
        file = load_prompt(prompt or f"free_form-{task}-1")
        self.layout = Layout(file, shown, shots, False, chat_template)
        # an answer may well begin with the ending
        self.decoding = Decoding(max_answer_tokens, stop=self.layout.stops[1:])

    @property
    def prompt_version(self) -> str:
        """See ``ModelLabeler``."""
        return f"{self.layout.version}+{RULES}+max={self.decoding.max_tokens}"

    def judge(self, pairs: Sequence[Preference], ask: Ask) -> list[Judgment]:
        """Judge pairs in order by what is written in both orders."""
        samples = [sample for pair in pairs for sample in self.layout.both_orders(pair)]
        replies = ask(
            [GenerateRequest(self.layout.verdict(each), self.decoding) for each in samples]
        )
        both = zip(replies[::2], replies[1::2], strict=True)
        return [self._judgment(forward, backward) for forward, backward in both]

    def _judgment(self, forward: Response, backward: Response) -> Judgment:
        """Map the swapped order back and take the majority."""
        both, prompt = (forward, backward), self.layout.prompt
        verdicts = [
            reply.failure or continued_verdict(prompt.ending, reply.text, prompt.asks_worse)
            for reply in both
        ]
        failures = [verdict for verdict in verdicts if verdict not in SHARES]
        if failures:
            return Judgment(math.nan, failure=min(failures), **outcome.spent_on(both))
        slots = [SHARES[verdict] for verdict in verdicts]
        first = [slots[0], 1.0 - slots[1]]
        if prompt.asks_worse:
            first = [1.0 - share for share in first]
        same = slots[0] == slots[1] != SHARES["tie"]
        return Judgment(
            math.nan,
            position_gap=abs(first[0] - first[1]),
            same_slot=same,
            slot=(1 if slots[0] else 2) if same else None,
            p_first=outcome.one_hot(sum(first) - 1.0),
            **outcome.spent_on(both),
        )
