"""Ask for verdicts in both orders, with a rationale first where wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlaif_pl.labeling.calls import Ask, ChoiceRequest, Decoding, GenerateRequest, Response
from rlaif_pl.labeling.outcome import Clamp, Judgment, finalize, label_version
from rlaif_pl.labeling.prompting.layout import Layout, Sample
from rlaif_pl.labeling.prompting.orders import EMPTY_RATIONALE, Order, combine

MAX_RATIONALE_TOKENS = 512  # limit of arXiv 2309.00267, appendix D


@dataclass(frozen=True, slots=True)
class Rationales:
    """How rationales are drawn.

    Attributes:
        samples: Rationales an order.
        decoding: How each is drawn.
    """

    samples: int
    decoding: Decoding

    @property
    def version(self) -> str:
        """What of this can change a label, in short."""
        decoding = self.decoding
        drawn = "greedy"
        if decoding.temperature:
            drawn = f"T={decoding.temperature!r},k={decoding.top_k},seed={decoding.seed}"
        return f"n={self.samples},{drawn},max={decoding.max_tokens}"


def checked_rationales(
    samples: int, temperature: float, top_k: int, max_tokens: int, seed: int
) -> Rationales:
    """Refuse settings that contradict each other.

    Args:
        samples: Rationales an order, at least 1.
        temperature: Of the drawing, at least 0; 0 is greedy.
        top_k: Number of likeliest tokens drawn from; 0 takes all.
        max_tokens: Length limit of a rationale.
        seed: Seeds the drawing.

    Raises:
        ValueError: A setting is out of its range, or several rationales are asked for without a
            temperature, which would all be the same.
    """
    if samples < 1 or max_tokens < 1 or top_k < 0 or not temperature >= 0:
        raise ValueError(
            "expected samples and max_rationale_tokens of at least 1, and top_k and "
            f"rationale_temperature of at least 0, got {samples}, {max_tokens}, {top_k}, {temperature}"
        )
    if samples > 1 and temperature == 0:
        raise ValueError(
            f"expected a rationale_temperature above 0 with samples={samples}, got 0: greedy "
            "rationales are all the same"
        )
    # What has no effect when greedy must not make a difference to what is stored.
    top_k, seed = (top_k, seed) if temperature else (0, 0)
    return Rationales(samples, Decoding(max_tokens, temperature, top_k, (), seed))


@dataclass(frozen=True, slots=True)
class VerdictReader:
    """Judges pairs by verdicts read in both orders.

    Attributes:
        layout: How samples become questions.
        rationales: How rationales are drawn; without effect unless the layout asks for them.
        hard: One-hot labels.
        clamp: Limits of a label.
    """

    layout: Layout
    rationales: Rationales
    hard: bool = False
    clamp: Clamp = None

    def __post_init__(self) -> None:
        """Refuse several samples of what is not sampled."""
        if self.rationales.samples > 1 and not self.layout.cot:
            raise ValueError(
                f"expected cot with samples={self.rationales.samples}: only rationales are sampled"
            )

    @property
    def version(self) -> str:
        """Version of the prompt and of every setting here that can change a label."""
        text = self.layout.version
        text += f"+{self.rationales.version}" if self.layout.cot else ""
        return text + label_version(self.hard, self.clamp)

    def judge(
        self, orders: Sequence[tuple[Sample, Sample]], temperature: float, ask: Ask
    ) -> list[Judgment]:
        """Judge pairs in order.

        Args:
            orders: Both orders of each pair.
            temperature: ``p_first = sigmoid(margin / temperature)``.
            ask: Answers calls.
        """
        readings = read_orders(orders, self.layout, self.rationales, ask)
        asks_worse = self.layout.prompt.asks_worse
        judgments = [combine(forward, backward, asks_worse) for forward, backward in readings]
        return [finalize(each, temperature, hard=self.hard, clamp=self.clamp) for each in judgments]


def read_orders(
    orders: Sequence[tuple[Sample, Sample]],
    layout: Layout,
    rationales: Rationales,
    ask: Ask,
) -> list[tuple[Order, Order]]:
    """Ask for the verdict on each pair in both orders.

    Args:
        orders: Both orders of each pair.
        layout: How samples become questions.
        rationales: How rationales are drawn; without effect unless the layout has them.
        ask: Answers calls.
    """
    results = [(Order(), Order()) for _ in orders]
    flat = [
        (order, sample)
        for both, samples in zip(results, orders, strict=True)
        for order, sample in zip(both, samples, strict=True)
    ]
    options = layout.options
    if not layout.cot:
        replies = ask([ChoiceRequest(layout.verdict(sample), options) for _, sample in flat])
        for (order, _), reply in zip(flat, replies, strict=True):
            order.add_verdict(reply)
        return results
    reasoned = _reason(flat, layout, rationales, ask)
    verdicts = ask(
        [ChoiceRequest(layout.verdict_after(sample, text), options) for _, sample, text in reasoned]
    )
    for (order, _, _), reply in zip(reasoned, verdicts, strict=True):
        order.add_verdict(reply)
    return results


def _reason(
    flat: Sequence[tuple[Order, Sample]], layout: Layout, rationales: Rationales, ask: Ask
) -> list[tuple[Order, Sample, str]]:
    """Have rationales written; those that failed are counted in their order."""
    decoding = replace(rationales.decoding, stop=layout.stops)
    wanted = [
        (order, sample, number) for order, sample in flat for number in range(rationales.samples)
    ]
    replies = ask(
        [
            GenerateRequest(layout.reasoning(sample), decoding, number)
            for _, sample, number in wanted
        ]
    )
    reasoned = []
    for (order, sample, _), reply in zip(wanted, replies, strict=True):
        order.spent.add(reply)
        failure = reply.failure or _empty(reply)
        if failure is None:
            reasoned.append((order, sample, reply.text))
        else:
            order.failures.append(failure)
    return reasoned


def _empty(reply: Response) -> str | None:
    return None if reply.text.strip() else EMPTY_RATIONALE
