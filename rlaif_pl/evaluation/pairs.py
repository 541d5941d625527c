"""What evaluations over labeled pairs share: which rows count, who is right, who is longer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rlaif_pl.text import strip_surplus_symbols
from rlaif_pl.types import Preference

Array = NDArray[np.float64]


def decided(gold: Sequence[Preference]) -> list[int]:
    """Positions of pairs that people decided: ``p_first`` is there and is not one half."""
    return [i for i, pair in enumerate(gold) if pair.p_first not in (None, 0.5)]


def stripped(pair: Preference) -> Preference:
    """Return the pair with surplus full stops and spaces removed from both responses."""
    first, second = strip_surplus_symbols(pair.first), strip_surplus_symbols(pair.second)
    return replace(pair, first=first, second=second)


def comparison_key(prompt: str, first: str, second: str) -> str:
    """Return what stands for a comparison in files without texts: a hash of the texts as judged."""
    digest = hashlib.blake2b(digest_size=12)
    for text in (prompt, first, second):
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def p_first_of(pairs: Sequence[Preference]) -> Array:
    """Probabilities that the first is better, of labeled pairs, ``(N,)``."""
    return np.array([pair.p_first for pair in pairs], np.float64)


def side(margin: Array) -> Array:
    """1 where the first is favored, 0 where the second is, 0.5 where neither, ``(N,)``.

    Args:
        margin: How much better the first is: a difference of scores, or a probability less 0.5.
    """
    return (np.sign(margin) + 1) / 2


def correctness(judged: Array, truth: Array) -> Array:
    """1 where two judges favor the same side, 0 where not, 0.5 where ``judged`` favors neither.

    Args:
        judged: Sides (see ``side``) by the judge that is measured. ``(N,)``
        truth: Sides by the judge to agree with; never 0.5. ``(N,)``
    """
    return np.where(judged == 0.5, 0.5, (judged == truth).astype(np.float64))


def lengths_of(pairs: Sequence[Preference]) -> tuple[Array, Array]:
    """Characters of the first and the second responses, ``(N,)`` each.

    Characters, as in the paper's length control (arXiv 2309.00267, appendix J). On OpenAI's TL;DR
    comparisons they predict people's choice better than words do (70.9 % against 68.2 % on batch
    13), so a labeler's gain over the length rule is not flattered.
    """
    first = np.array([len(pair.first) for pair in pairs], np.float64)
    second = np.array([len(pair.second) for pair in pairs], np.float64)
    return first, second


def is_length_matched(first: Array, second: Array) -> NDArray[np.bool_]:
    """True where the shorter is at least 0.8 of the longer (a ratio in [0.8, 1.25]), ``(N,)``."""
    return 5 * np.minimum(first, second) >= 4 * np.maximum(first, second)
