"""Verdicts in both orders, each after several rationales where wanted, and their average."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rlaif_pl.labeling.calls import Decoding, Response
from rlaif_pl.labeling.outcome import Judgment, mean, read_choice, sigmoid, spent_on

MAX_RATIONALE_TOKENS = 512  # limit of arXiv 2309.00267, appendix D


@dataclass(slots=True)
class Order:
    """What a model said when asked in one order."""

    odds: list[float] = field(default_factory=list)  # log-odds of slot 1 in nats, one a sample
    # probability outside the verdicts, in [0, 1]; one a sample that has a verdict, or has none
    # because it is too unlikely
    outside: list[float] = field(default_factory=list)
    ties: list[float] = field(default_factory=list)  # probability of a tie, where asked for
    failures: list[str] = field(default_factory=list)  # why samples gave nothing
    replies: list[Response] = field(default_factory=list)  # all of them, for what they took

    def add_verdict(self, reply: Response) -> None:
        """Take in the reply to a choice of a slot or a tie, half of which counts for each slot."""
        self.replies.append(reply)
        failure, outside = read_choice(reply)
        if outside is not None:
            self.outside.append(outside)
        if failure is not None:
            self.failures.append(failure)
            return
        one, two, *tie = (value for value in reply.logprobs if value is not None)
        if tie:
            half = tie[0] - math.log(2.0)
            self.ties.append(math.exp(tie[0] - log_sum(one, two, tie[0])))
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


def combine(forward: Order, backward: Order, asks_worse: bool) -> Judgment:
    """Map the swapped order back and average both as probabilities (arXiv 2309.00267, section 2.1.1).

    That cancels most of a position bias and shows what is left of it. Several rationales an order are
    averaged first (self-consistency, appendix M). Exchanging the orders, the first response in slot 1
    and in slot 2, negates the margin exactly and leaves everything else as it is. ``asks_worse``:
    verdicts name the worse response.
    """
    both = forward, backward
    found = spent_on(reply for order in both for reply in order.replies)
    found["off_option_mass"] = mean(mean(order.outside) for order in both)
    failures = [order.failure for order in both if order.failure is not None]
    if failures:
        return Judgment(math.nan, failure=min(failures), **found)
    sign = -1.0 if asks_worse else 1.0
    first = [sign * odds for odds in forward.odds], [-sign * odds for odds in backward.odds]
    margin = _log_mean(first) - _log_mean(tuple([-odds for odds in part] for part in first))
    means = [math.fsum(map(sigmoid, part)) / len(part) for part in first]
    slots = _named(forward.odds), _named(backward.odds)
    same = slots[0] is not None and slots[0] == slots[1]
    return Judgment(
        margin,
        position_gap=abs(means[0] - means[1]),
        same_slot=same,
        slot=slots[0] if same else None,
        tie_mass=mean([*forward.ties, *backward.ties]),
        **found,
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
        """How each rationale is drawn."""
        return Decoding.drawn(self.max_tokens, self.temperature, self.top_k, self.seed)

    @property
    def version(self) -> str:
        """What of this can change a label, in short."""
        drawn = "greedy"
        if self.temperature:
            drawn = f"T={self.temperature!r},k={self.top_k},seed={self.seed}"
        return f"n={self.samples},{drawn},max={self.max_tokens}"
