"""Whose verdicts a measurement rests on: people's, synthetic ones or an AI's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rlaif_pl.types import Preference

NAMES = {
    "human": "people",
    "reading": "a language model's blind reading",
    "synthetic": "synthetic verdicts",
    "ai": "an AI labeler",
}
READERS = {"human": "people", "reading": "language models"}  # of blind rankings
UNKNOWN = "unknown"
METRIC = "verdicts_by"


def judge_counts(pairs: Sequence[Preference]) -> dict[str, int]:
    """Return how many labeled pairs each kind of judge (a key of ``NAMES``) decided."""
    judged = (pair.source or UNKNOWN for pair in pairs if pair.p_first is not None)
    return dict(Counter(judged))


def judges_named(judged: Mapping[str, float], names: Mapping[str, str] = NAMES) -> str:
    """Name the judges as in "agreement with people", the most frequent first."""
    order = sorted(judged, key=lambda kind: -judged[kind])
    return " and ".join(names.get(kind, "unknown judges") for kind in order) or names["human"]


def judge_metrics(judged: Mapping[str, int], prefix: str) -> dict[str, float]:
    """Return the counts as flat numbers."""
    return {f"{prefix}/{METRIC}_{kind}": count for kind, count in judged.items()}


def judges_in(metrics: Mapping[str, float], prefix: str, names: Mapping[str, str] = NAMES) -> str:
    """Name the judges behind metrics, from what ``judge_metrics`` wrote; people in an older run."""
    head = f"{prefix}/{METRIC}_"
    found = {k.removeprefix(head): n for k, n in metrics.items() if k.startswith(head)}
    return judges_named(found, names)
