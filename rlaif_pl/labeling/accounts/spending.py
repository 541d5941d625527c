"""What calls cost: prices, totals, a limit that stops a job cleanly, and a guess beforehand."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rlaif_pl.labeling.calls import Ask, Call, Generate, Reply, Score
from rlaif_pl.types import Preference

MILLION = 1_000_000
CHARACTERS_PER_TOKEN = 4.0  # English text, until something was measured


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs.

    Attributes:
        read: USD per million tokens of the prompt, at least 0.
        written: USD per million tokens written, at least 0.
    """

    read: float
    written: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) and value >= 0 for value in (self.read, self.written)):
            raise ValueError(
                f"expected prices in USD per million tokens, at least 0, got {self.read} and "
                f"{self.written}"
            )

    def of(self, read: int, written: int) -> float:
        """Return the price in USD of so many tokens."""
        return (read * self.read + written * self.written) / MILLION


def price_of(model: str, prices: Mapping[str, Price] | None) -> Price | None:
    """Look a model's price up; None without a table.

    Raises:
        ValueError: There is a table, but the model is not in it.
    """
    if not prices:
        return None
    if model not in prices:
        raise ValueError(
            f"expected a price for {model!r}, got prices for {sorted(prices)} only; add it (0 if it "
            "is free) so that totals are right"
        )
    return prices[model]


class OutOfBudget(RuntimeError):  # noqa: N818 (a limit that was asked for is no error of the program)
    """The money that a job may spend is spent; everything paid for is kept."""


class Spending:
    """Counts every call of a run as its reply arrives.

    Args:
        max_cost: USD that this run may spend, at least 0; None for no limit. Calls in flight when
            it is reached are still paid.
    """

    def __init__(self, max_cost: float | None = None) -> None:
        if max_cost is not None and not (math.isfinite(max_cost) and max_cost >= 0):
            raise ValueError(f"expected max_cost in USD, at least 0, got {max_cost}")
        self.max_cost = max_cost
        self.calls = 0
        self.failures = 0
        self.attempts = 0
        self.read = 0
        self.written = 0
        self.cost_usd = 0.0
        self.seconds = 0.0
        self._lock = threading.Lock()

    def count(self, call: Call, reply: Reply) -> None:  # noqa: ARG002 (what a watch is told)
        """Add one reply.

        Raises:
            OutOfBudget: The limit is reached; the reply is counted all the same.
        """
        with self._lock:
            self.calls += 1
            self.failures += reply.failure is not None
            self.attempts += reply.attempts
            self.read += reply.read
            self.written += reply.written
            self.cost_usd += reply.cost_usd
            self.seconds += reply.seconds
        if self.max_cost is not None and reply.cost_usd > 0 and self.cost_usd >= self.max_cost:
            raise OutOfBudget(f"spent {self.cost_usd:.4f} of {self.max_cost:.4f} USD")

    def line(self) -> str:
        """Say in a few words what was spent so far."""
        failed = f", {self.failures} failed" if self.failures else ""
        limit = "" if self.max_cost is None else f" of {self.max_cost:.2f}"
        return (
            f"{self.calls} calls{failed}, {self.read + self.written:,} tokens, "
            f"{self.cost_usd:.4f}{limit} USD"
        )

    def to_metrics(self, prefix: str) -> dict[str, float]:
        """Return flat metrics ``prefix/name`` of this run."""
        return {
            f"{prefix}/run_calls": float(self.calls),
            f"{prefix}/run_failed_calls": float(self.failures),
            f"{prefix}/run_requests": float(self.attempts),
            f"{prefix}/run_read_tokens": float(self.read),
            f"{prefix}/run_written_tokens": float(self.written),
            f"{prefix}/run_cost_usd": self.cost_usd,
            f"{prefix}/run_call_seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class Projection:
    """A guess at what labeling will take, from the real prompts of a sample.

    Attributes:
        pairs: Pairs to label.
        sampled: Pairs whose prompts were written out.
        calls: Calls for all pairs.
        rounds: Calls that must wait for one another.
        read: Tokens read for all pairs.
        written: Tokens written at most, as if every text went up to its limit.
        cost_usd: Cost of the tokens above; None without a price.
    """

    pairs: int
    sampled: int
    calls: int
    rounds: int
    read: int
    written: int
    cost_usd: float | None

    def line(self) -> str:
        """Say it in a sentence."""
        cost = (
            "no price given" if self.cost_usd is None else f"at most about {self.cost_usd:.4g} USD"
        )
        return (
            f"{self.pairs} pairs to label: about {self.calls:,} calls in {self.rounds} round(s), "
            f"{self.read:,} tokens read and at most {self.written:,} written, {cost} "
            f"(from the prompts of {self.sampled} pairs)"
        )


def project(
    judge: Callable[[Sequence[Preference], Ask], object],
    pairs: Sequence[Preference],
    price: Price | None = None,
    count: Callable[[str], float] | None = None,
    sample: int = 20,
) -> Projection:
    """Write out the calls for a sample of the pairs, without asking anybody, and extrapolate.

    Calls of a later round hold texts that are not there yet; a text as long as its limit stands in.

    Args:
        judge: ``ModelLabeler.judge``.
        pairs: What is to be labeled.
        price: Of the model.
        count: Tokens of a text; a quarter of its characters without.
        sample: Pairs to write out, evenly spread over all.
    """
    step = max(len(pairs) // sample, 1)
    chosen = pairs[::step][:sample]
    tokens = count or (lambda text: len(text) / CHARACTERS_PER_TOKEN)
    asked: dict[Call, None] = {}
    rounds = 0

    def ask(calls: Sequence[Call]) -> list[Reply]:
        nonlocal rounds
        rounds += 1
        asked.update(dict.fromkeys(calls))
        return [_stand_in(call) for call in calls]

    if chosen:
        judge(chosen, ask)
    scale = len(pairs) / max(len(chosen), 1)
    read = round(scale * sum(tokens(_text_of(call)) for call in asked))
    written = round(scale * sum(_written(call) for call in asked))
    return Projection(
        pairs=len(pairs),
        sampled=len(chosen),
        calls=round(scale * len(asked)),
        rounds=rounds,
        read=read,
        written=written,
        cost_usd=None if price is None else price.of(read, written),
    )


def _text_of(call: Call) -> str:
    """All that a model reads for a call."""
    if isinstance(call, Score):
        return call.context + call.target
    return call.question.text + call.question.opening


def _written(call: Call) -> int:
    """Tokens a model writes for a call at most."""
    return call.decoding.max_tokens if isinstance(call, Generate) else 1


def _stand_in(call: Call) -> Reply:
    """Return a reply that says nothing, in place of one that would cost something."""
    if isinstance(call, Generate):
        return Reply(text="word" * call.decoding.max_tokens)  # as many tokens as it may have
    if isinstance(call, Score):
        return Reply(logprobs=(-1.0,) * max(len(call.target.split()), 1))
    return Reply(logprobs=(-math.log(len(call.options)),) * len(call.options))
