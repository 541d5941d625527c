"""Ask for verdicts in both orders, with a rationale first where wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlaif_pl.labeling.calls import Ask, ChoiceRequest, Decoding, GenerateRequest
from rlaif_pl.labeling.outcome import Clamp, Judgment, finalize, label_version
from rlaif_pl.labeling.prompting.layout import Layout, PromptSample
from rlaif_pl.labeling.prompting.orders import EMPTY_RATIONALE, Order, combine

MAX_RATIONALE_TOKENS = 512  # limit of arXiv 2309.00267, appendix D


@dataclass(frozen=True, slots=True)
class ChainOfThought:
    """Rationales written before a verdict.

    Attributes:
        samples: Rationales an order, at least 1, whose distributions are averaged (self-consistency).
        temperature: Of the drawing, at least 0; 0 is greedy, for one sample.
        top_k: Rationales are drawn from this many likeliest tokens; 0 takes all. The paper takes 40.
        max_tokens: Length limit of a rationale, at least 1.
        seed: Seeds the drawing.
    """

    samples: int = 1
    temperature: float = 0.0
    top_k: int = 0
    max_tokens: int = MAX_RATIONALE_TOKENS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.max_tokens < 1 or self.top_k < 0 or not self.temperature >= 0:
            raise ValueError(
                "expected cot with samples and max_tokens of at least 1, and top_k and temperature of "
                f"at least 0, got {self}"
            )
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"expected cot.temperature above 0 with cot.samples={self.samples}, got 0: greedy "
                "rationales are all the same"
            )

    @property
    def decoding(self) -> Decoding:
        """How each rationale is drawn; what has no effect when greedy makes no difference."""
        top_k, seed = (self.top_k, self.seed) if self.temperature else (0, 0)
        return Decoding(self.max_tokens, self.temperature, top_k, (), seed)

    @property
    def version(self) -> str:
        """What of this can change a label, in short."""
        drawn = "greedy"
        if self.temperature:
            drawn = f"T={self.temperature!r},k={self.top_k},seed={self.seed}"
        return f"n={self.samples},{drawn},max={self.max_tokens}"


def as_cot(cot: bool | ChainOfThought) -> ChainOfThought | None:
    """Return how rationales are drawn: greedily for True; None where none are."""
    return (ChainOfThought() if cot else None) if isinstance(cot, bool) else cot


@dataclass(frozen=True, slots=True)
class VerdictReader:
    """Judges pairs by verdicts read in both orders."""

    layout: Layout  # how samples become questions
    cot: ChainOfThought | None = None  # how rationales are drawn, where the layout asks for them
    hard: bool = False  # one-hot labels
    clamp: Clamp = None  # limits of a label

    @property
    def version(self) -> str:
        """Version of the prompt and of every setting here that can change a label."""
        text = self.layout.version
        text += f"+{self.cot.version}" if self.cot else ""
        return text + label_version(self.hard, self.clamp)

    def judge(
        self, orders: Sequence[tuple[PromptSample, PromptSample]], temperature: float, ask: Ask
    ) -> list[Judgment]:
        """Judge pairs in order."""
        readings = read_orders(orders, self.layout, self.cot, ask)
        asks_worse = self.layout.prompt.asks_worse
        judgments = [combine(forward, backward, asks_worse) for forward, backward in readings]
        return [finalize(each, temperature, hard=self.hard, clamp=self.clamp) for each in judgments]


def read_orders(
    orders: Sequence[tuple[PromptSample, PromptSample]],
    layout: Layout,
    cot: ChainOfThought | None,
    ask: Ask,
) -> list[tuple[Order, Order]]:
    """Ask for the verdict on each pair in both orders."""
    results = [(Order(), Order()) for _ in orders]
    flat = [
        (order, sample)
        for both, samples in zip(results, orders, strict=True)
        for order, sample in zip(both, samples, strict=True)
    ]
    if cot is None:
        asked = [(order, layout.verdict(sample)) for order, sample in flat]
    else:
        reasoned = _reason(flat, layout, cot, ask)
        asked = [(order, layout.verdict_after(sample, text)) for order, sample, text in reasoned]
    replies = ask([ChoiceRequest(question, layout.options) for _, question in asked])
    for (order, _), reply in zip(asked, replies, strict=True):
        order.add_verdict(reply)
    return results


def _reason(
    flat: Sequence[tuple[Order, PromptSample]], layout: Layout, cot: ChainOfThought, ask: Ask
) -> list[tuple[Order, PromptSample, str]]:
    """Have rationales written; those that failed are counted in their order."""
    decoding = replace(cot.decoding, stop=layout.stops)
    wanted = [(order, sample, number) for order, sample in flat for number in range(cot.samples)]
    replies = ask([GenerateRequest(layout.reasoning(s), decoding, n) for _, s, n in wanted])
    reasoned = []
    for (order, sample, _), reply in zip(wanted, replies, strict=True):
        order.spent.add(reply)
        failure = reply.failure or (None if reply.text.strip() else EMPTY_RATIONALE)
        if failure is None:
            reasoned.append((order, sample, reply.text))
        else:
            order.failures.append(failure)
    return reasoned
