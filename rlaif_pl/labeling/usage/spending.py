"""What calls cost: prices, totals, a limit that stops a job cleanly, and a label beside a person's.

The comparison of arXiv 2309.00267, appendix L: there an AI label takes 2 inferences of 830 tokens read
and 61 written, about $0.06 at GPT-4's prices of September 2023, and a person's label takes 304 words
at $0.11 per 50 words, $0.67.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlaif_pl.labeling.calls import Call, Response
from rlaif_pl.statistics import Estimator, Interval, flat_metrics
from rlaif_pl.text import word_count
from rlaif_pl.types import Preference

MILLION = 1_000_000


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
    """Look a model's price up; None without a table. ``ValueError``: the table lacks the model."""
    if not prices:
        return None
    if model not in prices:
        raise ValueError(
            f"expected a price for {model!r}, got prices for {sorted(prices)} only; add it (0 if it "
            "is free) so that totals are right"
        )
    return prices[model]


def refuse_unpriced(max_cost: float | None, backends: Iterable[object]) -> None:
    """Refuse (``ValueError``) a limit that a back end with a ``price`` of None would never reach."""
    for backend in backends:
        if max_cost is not None and getattr(backend, "price", 0.0) is None:
            model = getattr(backend, "model", "NAME")
            raise ValueError(
                f"expected a price for max_cost {max_cost:g} to be held to, got none: set prices of "
                f"{type(backend).__name__}, such as {{{model}: {{read: 0.15, written: 0.6}}}} (USD per "
                "million tokens; 0 where they are free), or leave max_cost out"
            )


class OutOfBudget(RuntimeError):  # noqa: N818 (a limit that was asked for is no error of the program)
    """The money that a job may spend is spent; everything paid for is kept."""


@dataclass(eq=False)
class BudgetTracker:
    """Counts every call of a run as its reply arrives."""

    # USD that this run may spend, at least 0; None for no limit. Calls in flight then are still paid
    max_cost: float | None = None
    calls: int = 0
    failures: int = 0
    attempts: int = 0
    read: int = 0
    written: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.max_cost is not None and not (math.isfinite(self.max_cost) and self.max_cost >= 0):
            raise ValueError(f"expected max_cost in USD, at least 0, got {self.max_cost}")

    def count(self, call: Call, reply: Response) -> None:  # noqa: ARG002 (what a watch is told)
        """Add one reply. ``OutOfBudget``: the limit is reached; the reply is counted all the same."""
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
        numbers = {"calls": self.calls, "failed_calls": self.failures, "requests": self.attempts}
        numbers |= {"read_tokens": self.read, "written_tokens": self.written}
        money = {"cost_usd": self.cost_usd, "call_seconds": self.seconds}
        return {f"{prefix}/run_{name}": float(value) for name, value in (numbers | money).items()}


HUMAN_USD_PER_50_WORDS = 0.11  # Google Cloud's data labeling service, as cited in the paper


def human_cost(words: float) -> float:
    """Return the US dollars a person is paid for judging a text of so many words."""
    return words / 50 * HUMAN_USD_PER_50_WORDS


def factor(times: float) -> str:
    """Write how many times cheaper something is."""
    return f"{times:,.0f}" if times >= 100 else f"{times:.3g}"


@dataclass(frozen=True, slots=True)
class CostComparison:
    """What a label costs by a model and by a person, in US dollars a pair."""

    ai: Interval  # by the model: from its tokens at the given prices, or as it was charged
    human: Interval  # by a person who reads the prompt and both responses
    words: Interval  # words a person reads for a pair
    read: Interval  # tokens the model reads for a pair
    written: Interval  # tokens it writes

    @property
    def times_cheaper(self) -> float:
        """Cost of a person's label over that of the model's; NaN where the model's is 0."""
        return self.human.value / self.ai.value if self.ai.value > 0 else math.nan

    def to_metrics(self, prefix: str) -> dict[str, float]:
        """Return flat numbers, each with its limits."""
        names = ("ai_usd", "human_usd", "words", "tokens_read", "tokens_written")
        values = (self.ai, self.human, self.words, self.read, self.written)
        means = {f"{name}_per_pair": value for name, value in zip(names, values, strict=True)}
        return flat_metrics(prefix, {**means, "times_cheaper": self.times_cheaper})


def compare_costs(
    rows: Sequence[Preference], prices: Price | None = None, estimator: Estimator = Estimator()
) -> CostComparison:
    """Compare the cost of labels with what people would be paid for them.

    Args:
        rows: Pairs as a labeler returned them; failures cost too and count.
        prices: The model's prices; None takes what was charged (``provenance.cost_usd``), which is
            0 for a model of one's own: machine time is not priced.
        estimator: How intervals are made.
    """
    groups = [row.group for row in rows]
    written = np.array([row.provenance.written for row in rows], np.float64)
    read = np.array([row.provenance.tokens for row in rows], np.float64) - written
    words = np.array([words_of(row) for row in rows], np.float64)
    charged = np.array([row.provenance.cost_usd for row in rows], np.float64)
    ai = charged if prices is None else (read * prices.read + written * prices.written) / MILLION
    values = (ai, words / 50 * HUMAN_USD_PER_50_WORDS, words, read, written)
    return CostComparison(*(estimator.mean(each, groups) for each in values))


def words_of(pair: Preference) -> int:
    """Words that a person reads to judge a pair: those of the prompt and of both responses."""
    return sum(word_count(text) for text in (pair.prompt, pair.first, pair.second))
