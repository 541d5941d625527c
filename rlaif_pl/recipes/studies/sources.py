"""What both reward studies share: pairs with an AI's label and people's, the arms, cross-fitting."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rlaif_pl.data.disk import file_named
from rlaif_pl.data.preferences import write_preferences
from rlaif_pl.data.sources import DataSource, load_preferences
from rlaif_pl.evaluation.pairs import correctness, lengths_of, side
from rlaif_pl.recipes.studies import fitting
from rlaif_pl.recipes.studies.fitting import Array, Fitter, Index, Labels, Method, labels_of
from rlaif_pl.text import word_count
from rlaif_pl.types import Preference

ARM_TITLES = {"human": "RLHF", "ai": "RLAIF", "hybrid": "hybrid"}
ARMS = tuple(ARM_TITLES)
DATA = "RLAIF_PL_DATA"  # environment variable: the folder that stands for data/


@dataclass(frozen=True, slots=True)
class TwiceLabeled:
    """Pairs with a person's label and an AI's."""

    pairs: Sequence[Preference]  # `N`
    groups: Sequence[str]  # post of each. `N`
    human: Array  # people's `p_first`. `(N,)`
    ai: Array  # the AI's `p_first`; NaN where it gave no label. `(N,)`
    # people's `p_first` by name of a subset of the votes; NaN elsewhere. `(N,)` each
    strata: Mapping[str, Array]

    def labels(self, arm: str, ai_weight: float = 1.0) -> Labels:
        """Return the labels an arm of ``ARMS`` trains on; ``hybrid`` has both of each pair."""
        if arm not in ARMS:
            raise ValueError(f"expected arms among {', '.join(ARMS)}, got {arm!r}")
        rows, human, ai = range(len(self.pairs)), self.human.tolist(), self.ai.tolist()
        if arm == "hybrid":
            return fitting.merged(labels_of(rows, human), labels_of(rows, ai, ai_weight))
        return labels_of(rows, human if arm == "human" else ai)


def label_twice(
    human: Sequence[Preference],
    ai: Sequence[Preference],
    strata: Mapping[str, Sequence[Preference]] | None = None,
) -> TwiceLabeled:
    """Bring together labels of the same pairs, whichever response stands first in each file.

    Some, but not all, may be missing of the AI's; ``strata`` are the pairs with some of people's votes.
    """
    pairs = [pair for pair in human if pair.p_first is not None]
    votes = {name: _looked_up(pairs, rows) for name, rows in (strata or {}).items()}
    groups, gold = [pair.group for pair in pairs], np.array([pair.p_first for pair in pairs])
    labels = _looked_up(pairs, ai)
    if not np.isfinite(labels).any():
        raise ValueError(
            f"expected AI labels of the {len(pairs)} pairs, none of {len(ai)} is of one of them; "
            "label the file that is given as human"
        )
    return TwiceLabeled(pairs, groups, gold.astype(np.float64), labels, votes)


def _looked_up(pairs: Sequence[Preference], labeled: Sequence[Preference]) -> Array:
    """Labels of pairs, from rows that may have the responses the other way round. ``(N,)``."""
    known: dict[tuple[str, str, str], float] = {}
    for row in labeled:
        if row.p_first is not None:
            known[row.prompt, row.first, row.second] = row.p_first
            known[row.prompt, row.second, row.first] = 1 - row.p_first
    keys = [(pair.prompt, pair.first, pair.second) for pair in pairs]
    return np.array([known.get(key, np.nan) for key in keys], np.float64)


def fold_of(groups: Sequence[str], folds: int, seed: int) -> Index:
    """Put each group into one of ``folds`` folds of like size, from 2 to their number. ``(N,)``."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    if not 2 <= folds <= len(names):
        most = f"from 2 to the number of posts ({len(names)})"
        raise ValueError(
            f"expected folds {most}, got {folds}; set folds accordingly or give more pairs"
        )
    place = np.random.default_rng(seed).permutation(len(names))
    assigned: Index = (place % folds)[member]
    return assigned


def draw_subset(rows: Index, groups: Sequence[str], size: int, seed: int) -> Index:
    """Draw whole posts at random until ``size`` pairs are there, then cut to ``size``; ascending.

    Of the ``rows`` of pairs whose posts are ``groups``. With one seed a smaller subset is part of a
    larger one, so that the curve's points share their luck.
    """
    if size < 1:
        raise ValueError(f"expected subsets of at least 1 pair, got {size}")
    names, member = np.unique(np.asarray(groups)[rows], return_inverse=True)
    place = np.random.default_rng(seed).permutation(len(names))[member]
    chosen: Index = np.sort(rows[np.argsort(place, kind="stable")[:size]])
    return chosen


def smallest_training_part(groups: Sequence[str], folds: int, seeds: Sequence[int]) -> int:
    """Return the pairs every fit can have: those outside the largest fold of any seed."""
    largest = max(int(np.bincount(fold_of(groups, folds, seed)).max()) for seed in seeds)
    return len(groups) - largest


def cross_fitted(
    fitter: Fitter,
    data: TwiceLabeled,
    arm: str,
    method: Method,
    seeds: Sequence[int],
    folds: int,
    ai_weight: float = 1.0,
    size: int | None = None,
) -> Array:
    """Margins of every pair by models that saw nothing of its post. ``(seeds, N)``.

    A seed gives another assignment to folds, order and, with ``size``, subset drawn by post.
    """
    labels, groups = data.labels(arm, ai_weight), data.groups
    result = np.full((len(seeds), len(data.pairs)), np.nan)
    for row, seed in enumerate(seeds):
        fold = fold_of(groups, folds, seed)
        for number in range(folds):
            train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            if size is not None:
                train = draw_subset(train, groups, size, seed * folds + number)
            result[row, test] = fitter.margins(labels.of(train), test, method, seed)
    return result


def right(margin: Array, truth: Array) -> Array:
    """1 where a margin favors the gold side, 0 where not, 0.5 where neither. ``(N,)``."""
    return correctness(side(margin), side(truth - 0.5))


def length_margin(pairs: Sequence[Preference]) -> Array:
    """Characters of the first less those of the second: the rule "the longer one wins". ``(N,)``."""
    first, second = lengths_of(pairs)
    return first - second


def decided_in(truth: Array) -> Index:
    """Decided pairs: a label that is there and is not one half."""
    return np.flatnonzero(np.isfinite(truth) & (truth != 0.5))


def located(source: DataSource | str) -> DataSource:
    """Return a source; ``data/...`` that is not there is looked for where ``RLAIF_PL_DATA`` says."""
    source = DataSource(source) if isinstance(source, str) else source
    path = Path(source.name)
    if path.parts[:1] != ("data",) or path.exists():
        return source
    place = os.environ.get(DATA)
    other = Path(place, *path.parts[1:]) if place else None
    if other is None or not other.exists():
        places = f"{path} or {other}" if other else path
        raise FileNotFoundError(
            f"expected real comparisons at {places}, found no file; get them as docs/studies.md says, "
            f"or set {DATA} to the folder that holds them"
        )
    return replace(source, name=str(other))


def write_study(
    source: DataSource,
    folder: Path,
    strata: Mapping[str, Sequence[int]],
    max_words: int | None,
    limit: int | None,
) -> dict[str, float]:
    """Write ``pairs.jsonl`` and, by subset of the votes, ``<name>.jsonl``; return their counts.

    The pairs are the first ``limit`` judged ones with prompts of at most ``max_words``, at least one.
    """
    judged = [row for row in load_preferences(source).rows if row.p_first is not None]
    most = math.inf if max_words is None else max_words
    rows = [row for row in judged if word_count(row.prompt) <= most][:limit]
    if not rows:
        raise ValueError(
            f"expected judged pairs of at most {max_words} words in {source.name}, got none of "
            f"{len(judged)}; raise max_words"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_preferences(folder / "pairs.jsonl", rows)
    known = {(row.prompt, frozenset((row.first, row.second))) for row in rows}
    counts = {"pairs": len(rows), "posts": len({row.group for row in rows})}
    for name, confidence in strata.items():
        part = load_preferences(replace(source, confidence=list(confidence), limit=None)).rows
        kept = [r for r in part if (r.prompt, frozenset((r.first, r.second))) in known]
        write_preferences(file_named(folder, name, ".jsonl"), kept)
        counts[name] = len(kept)
    return {f"study/{name}": float(count) for name, count in counts.items()}
