"""What calls cost: prices, totals, and a limit that stops a job cleanly."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rlaif_pl.labeling.calls import Call, Response

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
    """Refuse a limit that would never be reached, since a back end that has prices has none set.

    Args:
        max_cost: The limit; None for none.
        backends: Who answers. One without an attribute ``price`` charges nothing or by itself.

    Raises:
        ValueError: A limit is set and a price is missing.
    """
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


class BudgetTracker:
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

    def count(self, call: Call, reply: Response) -> None:  # noqa: ARG002 (what a watch is told)
        """Add one reply. ``OutOfBudget``: the limit is reached; the reply is counted all the same."""
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
