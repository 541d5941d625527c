"""Both orders of a pair: what each said, mapped back and averaged as probabilities.

Judging in both orders and averaging cancels most of a position bias, and shows what is left of it
(arXiv 2309.00267, section 2.1.1). With several rationales an order, their distributions are
averaged first (self-consistency, appendix M).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlaif_pl.labeling.calls import Response
from rlaif_pl.labeling.guard import LOW_MASS, off_option_mass
from rlaif_pl.labeling.outcome import Judgment, sigmoid

MISSING = "missing_logprob"
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
        """Take in the reply to a choice between slot 1, slot 2 and, where asked for, a tie.

        Half of a tie's probability counts for each slot.
        """
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
    return log_sum(
        *(_log_sigmoid(odds) - math.log(len(part) * len(parts)) for part in parts for odds in part)
    )


def _log_sigmoid(x: float) -> float:
    """Logarithm of the logistic function, without overflow."""
    return min(x, 0.0) - math.log1p(math.exp(-abs(x)))


def _mean(values: Iterable[float]) -> float:
    """Mean, the same in whatever order the values come."""
    listed = list(values)
    return math.fsum(listed) / len(listed)
