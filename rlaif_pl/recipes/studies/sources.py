"""Labels by an AI, by people and by both, as they train rewards and as people judge them.

What both reward studies share: the pairs with two labels each, the arms, and cross-fitted margins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlaif_pl.evaluation.pairs import correctness, lengths_of, side
from rlaif_pl.recipes.studies.fitting import Array, Fitter, Labels, Method, labels_of, merged
from rlaif_pl.recipes.studies.folds import Index, draw_subset, fold_of
from rlaif_pl.types import Preference

ARMS = ("human", "ai", "hybrid")
ARM_TITLES = {"human": "RLHF", "ai": "RLAIF", "hybrid": "hybrid"}
Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class TwiceLabeled:
    """Pairs with a person's label and an AI's."""

    pairs: Sequence[Preference]  # pairs with people's `p_first`. `N`
    ai: Array  # the AI's `p_first`; NaN where it gave no label. `(N,)`
    # people's `p_first` by name of a subset of the votes; NaN elsewhere. `(N,)` each
    strata: Mapping[str, Array]

    @property
    def human(self) -> Array:
        """People's ``p_first``. ``(N,)``."""
        return np.array([pair.p_first for pair in self.pairs], np.float64)

    @property
    def groups(self) -> list[str]:
        """Post of each pair. ``N``."""
        return [pair.group for pair in self.pairs]

    def labels(self, arm: str, ai_weight: float = 1.0) -> Labels:
        """Return the labels an arm of ``ARMS`` trains on; ``hybrid`` has both of each pair."""
        if arm not in ARMS:
            raise ValueError(f"expected arms among {', '.join(ARMS)}, got {arm!r}")
        rows = range(len(self.pairs))
        human, ai = labels_of(rows, self.human.tolist()), labels_of(rows, self.ai.tolist())
        if arm == "hybrid":
            return merged(human, labels_of(rows, self.ai.tolist(), ai_weight))
        return human if arm == "human" else ai


def label_twice(
    human: Sequence[Preference],
    ai: Sequence[Preference],
    strata: Mapping[str, Sequence[Preference]] | None = None,
) -> TwiceLabeled:
    """Bring together labels of the same pairs, whichever response stands first in each file.

    Pairs that people did not label are left out; some, but not all, may be missing of the AI's.
    ``strata`` are the same pairs with the labels of some votes only, by name.
    """
    pairs = [pair for pair in human if pair.p_first is not None]
    machine = _by_key(ai)
    both = TwiceLabeled(
        pairs,
        _looked_up(pairs, machine),
        {name: _looked_up(pairs, _by_key(rows)) for name, rows in (strata or {}).items()},
    )
    if not np.isfinite(both.ai).any():
        raise ValueError(
            f"expected AI labels of the {len(pairs)} pairs, none of {len(ai)} is of one of them; "
            "label the file that is given as human"
        )
    return both


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


def smallest_training_part(groups: Sequence[str], folds: int, seeds: Sequence[int]) -> int:
    """Return the pairs every fit can have: those outside the largest fold of any seed."""
    largest = max(int(np.bincount(fold_of(groups, folds, seed)).max()) for seed in seeds)
    return len(groups) - largest


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


def _by_key(rows: Sequence[Preference]) -> dict[Key, float]:
    known: dict[Key, float] = {}
    for row in rows:
        if row.p_first is not None:
            known[row.prompt, row.first, row.second] = row.p_first
            known[row.prompt, row.second, row.first] = 1 - row.p_first
    return known


def _looked_up(pairs: Sequence[Preference], known: Mapping[Key, float]) -> Array:
    keys = [(pair.prompt, pair.first, pair.second) for pair in pairs]
    return np.array([known.get(key, np.nan) for key in keys], np.float64)
