"""Scores of one summary, made from cached reads and embeddings: ``(pairs, 2)`` arrays by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from embed import sentences
from numpy.typing import NDArray
from pairs import HumanPair
from reads import WORDINGS, Cache

Array = NDArray[np.float64]
Reads = list[tuple[Array, Array]]


def load_reads(pairs: list[HumanPair], cache: Cache, wording: str) -> Reads:
    """Log-probabilities of both targets of each pair.

    Raises:
        KeyError: Something has not been read yet.
    """
    rows = []
    for pair in pairs:
        both = [cache.get(WORDINGS[wording](pair, text)) for text in pair.texts]
        if both[0] is None or both[1] is None:
            raise KeyError(f"{wording}: pair of {pair.group} has not been read; run collect.py")
        rows.append((both[0].astype(np.float64), both[1].astype(np.float64)))
    return rows


def per_summary(reads: Reads, reduce: Callable[[Array], float]) -> Array:
    """Reduce the tokens of each target to one number, ``(pairs, 2)``."""
    return np.array([[reduce(a), reduce(b)] for a, b in reads])


def saturated(reads: Reads, scale: float) -> Array:
    """Token differences of the two contexts squashed by tanh before the mean, ``(pairs, 2)``.

    Only where both targets are the same tokens. A few names cannot decide alone.
    """
    means = np.array([np.tanh((a - b) / scale).mean() * scale for a, b in reads])
    return np.stack([means / 2, -means / 2], 1)


def weighted(reads: Reads, weigh: Callable[[Array, int], Array]) -> Array:
    """Means with weights made of the pair's mean surprisal per token and the position."""
    rows = []
    for a, b in reads:
        weights = weigh(-(a + b) / 2, len(a))
        weights = weights / weights.sum()
        rows.append([float(weights @ a), float(weights @ b)])
    return np.array(rows)


def on_texts(pairs: list[HumanPair], measure: Callable[[HumanPair, str], float]) -> Array:
    """Measure both summaries of each pair, ``(pairs, 2)``."""
    return np.array([[measure(pair, text) for text in pair.texts] for pair in pairs])


def words(text: str) -> list[str]:
    """Lower-case words."""
    return re.findall(r"[a-z0-9']+", text.lower())


def copied_share(pair: HumanPair, text: str, n: int = 3) -> float:
    """Share of the summary's n-grams that stand in the post."""
    grams = lambda w: [tuple(w[i : i + n]) for i in range(len(w) - n + 1)]  # noqa: E731
    known, own = set(grams(words(pair.post))), grams(words(text))
    return sum(g in known for g in own) / max(len(own), 1)


def new_share(pair: HumanPair, text: str) -> float:
    """Share of the summary's words that neither post nor title has."""
    known, own = set(words(f"{pair.post} {pair.title}")), words(text)
    return sum(w not in known for w in own) / max(len(own), 1)


def shared(pair: HumanPair, text: str, *, only_title: bool = False) -> set[str]:
    """Words of the summary that post and title have, or the title alone."""
    return set(words(text)) & set(words(pair.title if only_title else f"{pair.post} {pair.title}"))


def letters(found: set[str]) -> int:
    """Characters of all words together."""
    return sum(map(len, found))


SURFACE: dict[str, Callable[[HumanPair, str], float]] = {
    "log characters": lambda _, s: float(np.log(len(s))),
    "log distinct words": lambda _, s: float(np.log(len(set(words(s))))),
    "shared words, number": lambda p, s: float(len(shared(p, s))),
    "shared_words": lambda p, s: float(np.log(1 + letters(shared(p, s)))),
    "title_words": lambda p, s: float(np.log(5 + letters(shared(p, s, only_title=True)))),
    "new words, share": lambda p, s: -new_share(p, s),
    "copied 3-grams": copied_share,
    "ends with stop": lambda _, s: float(s.rstrip("\"')")[-1:] in (".", "!", "?")),
    "asks": lambda _, s: float("?" in s),
    "sentences": lambda _, s: float(len(sentences(s))),
}


class Embedded:
    """Similarities from the file that embed.py wrote."""

    def __init__(self, path: Path) -> None:
        data = np.load(path)
        self.vectors = dict(zip(data["texts"].tolist(), data["vectors"].astype(float), strict=True))

    def of(self, texts: list[str]) -> Array:
        """Unit vectors ``(N, 384)``."""
        return np.stack([self.vectors[text] for text in texts])

    def measures(self) -> dict[str, Callable[[HumanPair, str], float]]:
        """Similarity of whole texts; coverage of the post; support of the summary."""

        def cross(pair: HumanPair, text: str) -> Array:
            return self.of(sentences(pair.post)) @ self.of(sentences(text)).T

        def whole(a: str, b: str) -> float:
            return float(self.of([a])[0] @ self.of([b])[0])

        return {
            "MiniLM to post": lambda p, s: whole(p.post, s),
            "MiniLM to title": lambda p, s: whole(p.title, s),
            "MiniLM coverage": lambda p, s: float(cross(p, s).max(1).mean()),
            "MiniLM support, mean": lambda p, s: float(cross(p, s).max(0).mean()),
            "MiniLM support, worst": lambda p, s: float(cross(p, s).max(0).min()),
            "MiniLM to mean sentence": lambda p, s: float(
                self.of(sentences(p.post)).mean(0) @ self.of([s])[0]
            ),
        }
