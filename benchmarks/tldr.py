"""Real texts for benchmarks: comparisons of TL;DR summaries, by people where they are here.

They are read from $RLAIF_PL_DATA/tldr_comparisons/batch13.json (OpenAI's human comparisons), or from
../shared/data beside the checkout; without them, the pairs that come with the package are taken.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from rlaif_pl.data.sources import DataSource, load_preferences
from rlaif_pl.text import truncate_words, word_count
from rlaif_pl.types import Batch, Preference, Prompt

T = TypeVar("T")


def load_pairs(longest: int | None = None) -> list[Preference]:
    """Return the first pair of each post, of posts of so many words at most."""
    rows: dict[str, Preference] = {}
    for row in _rows():
        if longest is None or word_count(row.prompt) <= longest:
            rows.setdefault(row.group, row)
    return list(rows.values())


def load_posts(count: int, words: int) -> list[str]:
    """Return posts, cut after so many words, in the file's order; again where there are too few."""
    posts = [*dict.fromkeys(row.prompt for row in _rows())][:count]
    return repeated([truncate_words(post, words) for post in posts], count)


def repeated(rows: Sequence[T], count: int) -> list[T]:
    """Return so many rows, from the start again where there are too few."""
    return [rows[n % len(rows)] for n in range(count)]


def batches_of(posts: Sequence[str], size: int) -> list[Batch[Prompt]]:
    """Cut posts into batches."""
    rows = [Prompt(post, post) for post in posts]
    places = [range(n, min(n + size, len(rows))) for n in range(0, len(rows), size)]
    return [Batch([rows[n] for n in own], own, [False] * len(own)) for own in places]


def _rows() -> Sequence[Preference]:
    folder = Path(os.environ.get("RLAIF_PL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    file = folder / "tldr_comparisons" / "batch13.json"
    return load_preferences(DataSource(str(file)) if file.is_file() else "tiny_tldr/pairs").rows
