"""What counts as reward hacking: limits, the texts' own symptoms, and when a limit is crossed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

from rlaif_pl.text import repeated_ngrams

ADVICE = {
    "length_ratio": "look at samples.csv; raise shaping.kl_coef; add shaping.missing_eos_penalty (too "
    "long) or shaping.min_length with min_length_penalty (too short); compare lengths in the labels: a "
    "reward model that learned length pays for it",
    "kl": "raise shaping.kl_coef, lower the learning rate, or train fewer steps",
    "unfinished": "raise sampling.max_new_tokens or shaping.missing_eos_penalty",
    "repetitive": "set shaping.repetition_penalty, or raise shaping.kl_coef and lower the learning "
    "rate; add such texts to the labeled pairs, so that the reward model has seen them",
    "empty": "set shaping.min_length and shaping.min_length_penalty",
    "divergence": "trust the judge's best checkpoint, not the last; label fresh pairs of the present "
    "policy and fit the reward model again, or raise shaping.kl_coef",
}


@dataclass(frozen=True)
class Repetition:
    """When a response is repetitive.

    Attributes:
        ngram: Length of the n-grams whose repetition counts, at least 1.
        share: Share of repeated n-grams above which it is, in (0, 1).
    """

    ngram: int = 3
    share: float = 0.25

    def __post_init__(self) -> None:
        if self.ngram < 1:
            raise ValueError(f"expected repetition.ngram of at least 1, got {self.ngram}")


@dataclass(frozen=True)
class AlarmLimits:
    """Where an alarm goes off; None turns a limit off.

    Attributes:
        shortest: Mean length over that of the first steps, at least this.
        longest: The same, at most this.
        kl: KL from the SFT policy in nats a response.
        unfinished: Rise of the share of responses cut by the length limit, since the first steps.
        repetitive: Rise of the share of repetitive responses since the first steps.
        empty: Share of empty responses, in [0, 1].
        divergence: Reward up and judge down by this many standard deviations of their scores,
            both beyond chance.
    """

    shortest: float | None = 0.5
    longest: float | None = 2.0
    kl: float | None = 30.0
    unfinished: float | None = 0.25
    repetitive: float | None = 0.2
    empty: float | None = 0.1
    divergence: float | None = 0.3

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None and value < 0:
                raise ValueError(f"AlarmLimits: {each.name} must be at least 0, got {value}")
        if self.shortest is not None and self.longest is not None and self.shortest >= self.longest:
            raise ValueError(
                f"AlarmLimits: expected shortest < longest, got {self.shortest} and {self.longest}"
            )

    def crossed(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the limit of every quantity that is beyond it; absent ones cross nothing."""
        bounds = [("length_ratio", self.shortest, -1), ("length_ratio", self.longest, 1)]
        names = ("kl", "unfinished", "repetitive", "empty", "divergence")
        bounds += [(name, getattr(self, name), 1) for name in names]
        return {
            name: limit
            for name, limit, sign in bounds
            if limit is not None and name in values and sign * values[name] > sign * limit
        }


def symptoms(responses: Sequence[str], n: int, share: float) -> tuple[int, int, int]:
    """Count responses of which more than ``share`` is repeated n-grams, empty ones, and all."""
    repetitive = sum(repeated_ngrams(text, n) > share for text in responses)
    return repetitive, sum(not text.strip() for text in responses), len(responses)


def count_streaks(
    streaks: dict[str, tuple[int, int]], step: int, watched: Iterable[str], crossed: Container[str]
) -> None:
    """Count for how many steps in a row each quantity has been beyond its limit.

    Args:
        streaks: First step and number of steps of each streak that goes on; changed in place.
        step: Step to take in.
        watched: Quantities measured at it; streaks of others stay as they are.
        crossed: Quantities beyond their limit.
    """
    for name in watched:
        onset, length = streaks.pop(name, (step, 0))
        if name in crossed:
            streaks[name] = (onset, length + 1)
