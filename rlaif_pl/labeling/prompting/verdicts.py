"""Ask for verdicts in both orders, with a rationale first where wanted, and average what was said.

Judging in both orders and averaging as probabilities cancels most of a position bias, and shows what is
left of it (arXiv 2309.00267, section 2.1.1). With several rationales an order, their distributions are
averaged first (self-consistency, appendix M).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rlaif_pl.labeling.calls import Ask, ChoiceRequest, Decoding, GenerateRequest, Response
from rlaif_pl.labeling.guard import LOW_MASS, MISSING, off_option_mass
from rlaif_pl.labeling.outcome import Judgment, sigmoid
from rlaif_pl.labeling.prompting.layout import Layout, PromptSample

EMPTY_RATIONALE = "empty_rationale"


@dataclass(slots=True)
class Spent:
    """What replies took, whether they were of use or not."""

    tokens: int = 0  # tokens read and written
    written: int = 0  # of these, the tokens written
    costs: list[float] = field(default_factory=list)  # money paid for each reply

    @classmethod
    def of(cls, replies: Iterable[Response]) -> Spent:
        """Return what several replies took."""
        spent = cls()
        for reply in replies:
            spent.add(reply)
        return spent

    def add(self, reply: Response) -> None:
        """Count a reply."""
        self.tokens += reply.read + reply.written
        self.written += reply.written
        self.costs.append(reply.cost_usd)

    def judgment(self, margin: float = math.nan, **found: Any) -> Judgment:
        """Return what was found out with what it took, the same in whatever order replies came."""
        cost = math.fsum(self.costs)
        return Judgment(margin, self.tokens, written=self.written, cost_usd=cost, **found)


@dataclass(slots=True)
class Order:
    """What a model said when asked in one order."""

    # log-odds that slot 1 is named, in nats; one a sample
    odds: list[float] = field(default_factory=list)
    # probability outside the verdicts, in [0, 1]; one a sample that has a verdict, or has none
    # because it is too unlikely
    outside: list[float] = field(default_factory=list)
    # probability of a tie among the verdicts, in [0, 1]; one a sample, where asked for
    ties: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)  # why samples gave nothing
    spent: Spent = field(default_factory=Spent)  # what it took

    def add_verdict(self, reply: Response) -> None:
        """Take in the reply to a choice of a slot or a tie, half of which counts for each slot."""
        self.spent.add(reply)
        failure, outside = read_choice(reply)
        if outside is not None:
            self.outside.append(outside)
        if failure is not None:
            self.failures.append(failure)
            return
        one, two, *tie = (value for value in reply.logprobs if value is not None)
        if tie:
            half = tie[0] - math.log(2.0)
            whole = log_sum(one, two, tie[0])
            self.ties.append(math.exp(tie[0] - whole))
            one, two = log_sum(one, half), log_sum(two, half)
        self.odds.append(one - two)

    @property
    def failure(self) -> str | None:
        """Why this order says nothing: at least half of its samples failed."""
        if len(self.odds) > len(self.failures):
            return None
        return min(self.failures, default="empty")


def log_sum(*logs: float) -> float:
    """Logarithm of the sum of exponentials, without overflow."""
    top = max(logs)
    return top + math.log(math.fsum(math.exp(each - top) for each in logs))


def read_choice(reply: Response) -> tuple[str | None, float | None]:
    """Say why the reply to a choice cannot be used, and how likely none of its options is, in [0, 1].

    Returns:
        None for the first where it can be used, None for the second where it is not known.
    """
    known = [value for value in reply.logprobs if value is not None]
    failure = reply.failure
    if failure is None and not (known and len(known) == len(reply.logprobs)):
        failure = MISSING
    elif failure is None and not all(map(math.isfinite, known)):
        failure = "nonfinite"
    is_known = known and failure in (None, LOW_MASS)
    return failure, off_option_mass(known) if is_known else None


def combine(forward: Order, backward: Order, asks_worse: bool) -> Judgment:
    """Map the swapped order back and average both as probabilities.

    Exchanging the two orders negates the margin exactly and leaves everything else as it is.

    Args:
        forward: What was said where the first response is in slot 1.
        backward: What was said where it is in slot 2.
        asks_worse: The verdicts name the worse response: turn them around.
    """
    spent = Spent(
        forward.spent.tokens + backward.spent.tokens,
        forward.spent.written + backward.spent.written,
        [*forward.spent.costs, *backward.spent.costs],
    )
    outside = [_mean(order.outside) for order in (forward, backward) if order.outside]
    failures = [order.failure for order in (forward, backward) if order.failure is not None]
    if failures:
        mass = _mean(outside) if outside else None
        return spent.judgment(off_option_mass=mass, failure=min(failures))
    sign = -1.0 if asks_worse else 1.0
    first = [sign * odds for odds in forward.odds], [-sign * odds for odds in backward.odds]
    margin = _log_mean(first) - _log_mean(tuple([-odds for odds in part] for part in first))
    means = [_mean(map(sigmoid, part)) for part in first]
    slots = _named(forward.odds), _named(backward.odds)
    same = slots[0] is not None and slots[0] == slots[1]
    return spent.judgment(
        margin,
        position_gap=abs(means[0] - means[1]),
        same_slot=same,
        off_option_mass=_mean(outside),
        slot=slots[0] if same else None,
        tie_mass=_mean(ties) if (ties := [*forward.ties, *backward.ties]) else None,
    )


def _named(odds: Sequence[float]) -> int | None:
    """Slot that an order's samples name on average; None for neither."""
    lead = math.fsum(sigmoid(each) - sigmoid(-each) for each in odds)
    return None if lead == 0 else (1 if lead > 0 else 2)


def _log_mean(parts: tuple[list[float], ...]) -> float:
    """Logarithm of the mean over parts of the mean over each part of ``sigmoid(odds)``.

    Finite however large the odds, and the same in whatever order parts and odds come.
    """
    sizes = [(odds, math.log(len(part) * len(parts))) for part in parts for odds in part]
    return log_sum(*(min(x, 0.0) - math.log1p(math.exp(-abs(x))) - size for x, size in sizes))


def _mean(values: Iterable[float]) -> float:
    """Mean, the same in whatever order the values come."""
    listed = list(values)
    return math.fsum(listed) / len(listed)


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


def judge_orders(
    orders: Sequence[tuple[PromptSample, PromptSample]],
    layout: Layout,
    cot: ChainOfThought | None,
    ask: Ask,
) -> list[Judgment]:
    """Ask for the verdict on each pair in both orders; ``cot`` draws rationales where laid out so."""
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
    return [combine(*both, layout.prompt.asks_worse) for both in results]


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
