"""Real pairs of the study: one row a pair, by majority of workers, split in halves by post."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Half = Literal["A", "B"]
HIGH_CONFIDENCE = frozenset({1, 2, 8, 9})  # the scale 1..9 is signed by side


@dataclass(frozen=True, slots=True)
class HumanPair:
    """Two summaries of a post and what people chose.

    Attributes:
        group: Identity of the post.
        subreddit: Where it was posted.
        title: Its title.
        post: Its text.
        first: One summary.
        second: The other.
        first_wins: Verdict of the majority of confident workers.
        votes: Number of confident workers.
    """

    group: str
    subreddit: str
    title: str
    post: str
    first: str
    second: str
    first_wins: bool
    votes: int

    @property
    def texts(self) -> tuple[str, str]:
        """Both summaries."""
        return self.first, self.second

    @property
    def is_length_matched(self) -> bool:
        """Whether the shorter summary has at least 80 % of the longer one's characters."""
        a, b = sorted((len(self.first), len(self.second)))
        return a >= 0.8 * b


def half_of(group: str) -> Half:
    """Half of a post, by a hash of its identity that no other part of the study uses."""
    return "A" if hashlib.sha256(f"halves:{group}".encode()).digest()[0] % 2 == 0 else "B"


def order_of(group: str) -> str:
    """Sorting key of a post: a fixed order that has nothing to do with the data's."""
    return hashlib.sha256(f"order:{group}".encode()).hexdigest()


def load_pairs(path: Path, half: Half, max_words: int = 350) -> list[HumanPair]:
    """Read the confident verdicts of one half; undecided pairs are left out.

    Args:
        path: JSON lines as published with arXiv 2009.01325.
        half: Which posts.
        max_words: Longer posts are left out.
    """
    votes: dict[tuple[str, str, str], Counter[bool]] = {}
    infos: dict[str, dict[str, Any]] = {}
    for row in _rows(path):
        info = row["info"]
        confident = row["extra"].get("confidence") in HIGH_CONFIDENCE
        if not confident or half_of(info["id"]) != half or len(info["post"].split()) > max_words:
            continue
        texts = [summary["text"].strip() for summary in row["summaries"]]
        if texts[0] == texts[1] or not all(texts):
            continue
        winner = texts[row["choice"]]
        first, second = sorted(texts)
        infos[info["id"]] = info
        votes.setdefault((info["id"], first, second), Counter())[winner == first] += 1
    pairs = [
        HumanPair(
            group,
            infos[group]["subreddit"],
            infos[group]["title"].strip(),
            infos[group]["post"].strip(),
            first,
            second,
            first_wins=count[True] > count[False],
            votes=count.total(),
        )
        for (group, first, second), count in votes.items()
        if count[True] != count[False]
    ]
    return sorted(pairs, key=lambda pair: (order_of(pair.group), pair.first))


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
