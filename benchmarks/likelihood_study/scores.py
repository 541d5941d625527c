"""Scores made of cached reads, by name: the rows of docs/likelihood.md."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from features import Array, Reads, load_reads, per_summary, saturated, shared, weighted
from pairs import HumanPair
from reads import Cache
from transformers import PreTrainedTokenizerBase


def reconstruction(reads: Reads) -> dict[str, Array]:
    """Scores of the post's tokens after each summary."""
    scores = {
        "mean": per_summary(reads, np.mean),
        "sum": per_summary(reads, np.sum),
        "sign": saturated(reads, 1e-3),
        "1 / (1 + surprisal)": weighted(reads, lambda s, _: 1 / (1 + s)),
        "growing": weighted(reads, lambda _, n: 1 + np.arange(n) / 50),
        "second half": per_summary(reads, lambda a: a[len(a) // 2 :].mean()),
    }
    for scale in (0.1, 0.25, 0.5, 1.0):
        scores[f"tanh {scale}"] = saturated(reads, scale)
    for power in (0.5, 1.0, 2.0):
        scores[f"surprisal^{power}"] = weighted(reads, _to_the(power))
    for count in (50, 100, 200):
        scores[f"first {count}"] = per_summary(reads, _mean_of_first(count))
        scores[f"decay {count}"] = weighted(reads, _decaying(count))
    return {f"reconstruction, {name}": value for name, value in scores.items()}


def _to_the(power: float) -> Callable[[Array, int], Array]:
    return lambda surprisals, _: (surprisals + 1e-6) ** power


def _mean_of_first(count: int) -> Callable[[Array], float]:
    return lambda values: float(values[:count].mean())


def _decaying(count: int) -> Callable[[Array, int], Array]:
    return lambda _, length: np.exp(-np.arange(length) / count)


def conditional(given: Reads, alone: Reads) -> dict[str, Array]:
    """Scores of the summary's tokens after the post and without it; the line break is left out."""

    def both(measure: object) -> Array:
        rows = [
            [measure(x[:-1], y[:-1]) for x, y in zip(g, a, strict=True)]  # type: ignore[operator]
            for g, a in zip(given, alone, strict=True)
        ]
        return np.array(rows)

    scores = {
        "conditional, mean": both(lambda x, _: x.mean()),
        "conditional, sum": both(lambda x, _: x.sum()),
        "conditional, least": both(lambda x, _: x.min()),
        "alone, mean": both(lambda _, y: y.mean()),
        "alone, sum": both(lambda _, y: y.sum()),
        "PMI, mean": both(lambda x, y: (x - y).mean()),
        "PMI, sum": both(lambda x, y: (x - y).sum()),
        "PMI, gains only": both(lambda x, y: np.maximum(x - y, 0).sum()),
        "end": per_summary(given, lambda x: x[-1]),
    }
    for share in (0.05, 0.1, 0.25, 0.5):
        scores[f"conditional, quantile {share}"] = both(lambda x, _, q=share: np.quantile(x, q))
    for weight in (0.5, 0.7, 0.85, 1.2):
        scores[f"PMI, weight {weight}"] = both(lambda x, y, w=weight: (x - w * y).sum())
    for most in (0.5, 1.0, 2.0, 3.0):
        scores[f"PMI, at most {most}"] = both(lambda x, y, m=most: np.minimum(x - y, m).sum())
    for scale in (0.3, 1.0, 2.0):
        scores[f"PMI, tanh {scale}"] = both(lambda x, y, c=scale: np.tanh((x - y) / c).sum())
    for depth in (1, 2, 3):
        scores[f"tokens above -{depth}"] = both(lambda x, _, d=depth: float((x > -d).sum()))
    return scores


def information(
    pairs: list[HumanPair], alone: Reads, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Array]:
    """Scores of the surprisals, without the post, of the words shared with it."""
    found = [
        [
            shared_surprisals(pair, text, values, tokenizer)
            for text, values in zip(pair.texts, own, strict=True)
        ]
        for pair, own in zip(pairs, alone, strict=True)
    ]
    measures: dict[str, Callable[[Array], float]] = {
        "shared surprisal, sum": np.sum,
        "shared surprisal, at most 6": lambda v: np.minimum(v, 6).sum(),
        "shared surprisal, sqrt": lambda v: np.sqrt(v).sum(),
        "shared surprisal, log sum": lambda v: np.log(5 + v.sum()),
        "shared_information": lambda v: np.log1p(np.sqrt(v).sum() / 2),
    }
    return {
        name: np.array([[measure(v) for v in row] for row in found])
        for name, measure in measures.items()
    }


def shared_surprisals(
    pair: HumanPair, text: str, logprobs: Array, tokenizer: PreTrainedTokenizerBase
) -> Array:
    """Surprisal in nats of each different shared word where it first occurs."""
    target = f" {text}\n"
    spans = tokenizer(target, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    left, values = shared(pair, text), []
    for match in re.finditer(r"[A-Za-z0-9']+", target):
        if (word := match[0].lower()) in left:
            left -= {word}
            own = [
                value
                for (start, end), value in zip(spans, logprobs, strict=True)
                if start < match.end() and end > match.start()
            ]
            values.append(-sum(own))
    return np.maximum(np.array(values), 0.0)


def readable(pairs: list[HumanPair], cache: Cache, wordings: list[str]) -> list[HumanPair]:
    """Pairs of which everything has been read."""
    kept = []
    for pair in pairs:
        try:
            for wording in wordings:
                load_reads([pair], cache, wording)
        except KeyError:
            continue
        kept.append(pair)
    return kept
