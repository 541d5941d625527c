"""What a label costs: by a language model, from its tokens, and by a person, from words read.

The comparison of arXiv 2309.00267, appendix L: there an AI label takes 2 inferences of 830 tokens read
and 61 written, about $0.06 at GPT-4's prices of September 2023, and a person's label takes 304 words
at $0.11 per 50 words, $0.67.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlaif_pl.labeling.usage.spending import MILLION, Price
from rlaif_pl.statistics import Estimator, Interval, flat_metrics
from rlaif_pl.types import Preference

HUMAN_USD_PER_50_WORDS = 0.11  # Google Cloud's data labeling service, as cited in the paper


def human_cost(words: float, usd_per_50_words: float = HUMAN_USD_PER_50_WORDS) -> float:
    """Return the US dollars a person is paid for judging a text of so many words."""
    return words / 50 * usd_per_50_words


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
        return flat_metrics(
            prefix,
            {
                "ai_usd_per_pair": self.ai,
                "human_usd_per_pair": self.human,
                "words_per_pair": self.words,
                "tokens_read_per_pair": self.read,
                "tokens_written_per_pair": self.written,
                "times_cheaper": self.times_cheaper,
            },
        )


def compare_costs(
    rows: Sequence[Preference],
    prices: Price | None = None,
    usd_per_50_words: float = HUMAN_USD_PER_50_WORDS,
    draws: int = 2000,
    seed: int = 0,
) -> CostComparison:
    """Compare the cost of labels with what people would be paid for them.

    Args:
        rows: Pairs as a labeler returned them; failures cost too and count.
        prices: The model's prices; None takes what was charged (``provenance.cost_usd``), which is
            0 for a model of one's own: machine time is not priced.
        usd_per_50_words: What a person is paid.
        draws: Bootstrap resamples.
        seed: Seeds the bootstrap.
    """
    groups = [row.group for row in rows]
    written = np.array([row.provenance.written for row in rows], np.float64)
    read = np.array([row.provenance.tokens for row in rows], np.float64) - written
    words = np.array([words_of(row) for row in rows], np.float64)
    charged = np.array([row.provenance.cost_usd for row in rows], np.float64)
    ai = charged if prices is None else (read * prices.read + written * prices.written) / MILLION
    human = words / 50 * usd_per_50_words
    mean = Estimator(draws, seed).mean
    return CostComparison(*(mean(each, groups) for each in (ai, human, words, read, written)))


def words_of(pair: Preference) -> int:
    """Words that a person reads to judge a pair: those of the prompt and of both responses."""
    return sum(len(text.split()) for text in (pair.prompt, pair.first, pair.second))
