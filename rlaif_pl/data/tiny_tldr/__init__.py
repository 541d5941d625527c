"""The embedded data set: short posts with summaries, written for this project (see README.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlaif_pl.data.files import read_rows
from rlaif_pl.data.preferences import LoadedPreferences, preferences_from_rows
from rlaif_pl.data.records import decode_fields
from rlaif_pl.data.sides import chosen_is_first
from rlaif_pl.types import Preference, Prompt, Provenance

Split = Literal["train", "dev", "final"]
Failing = Literal["coherence", "accuracy", "coverage"]
FOLDER = Path(__file__).parent
NAME = "tiny_tldr"
SPLITS: tuple[Split, ...] = ("train", "dev", "final")
NAMES: dict[str, Split | Literal["pairs"]] = {
    "tiny_tldr/train": "train",
    "tiny_tldr/dev": "dev",
    "tiny_tldr/final": "final",
    "tiny_tldr/pairs": "pairs",
}


@dataclass(frozen=True, slots=True)
class Post:
    """One post.

    Attributes:
        id: Its name, unique over all splits.
        topic: What it is about, one of a few dozen everyday topics.
        post: The text, 40 to 90 words.
        summary: Reference summary, 8 to 20 words.
        better: A good summary by another writer; None in training posts.
        worse: A summary that fails in one way; None in training posts.
        fails: What ``worse`` lacks; None in training posts.
    """

    id: str
    topic: str
    post: str
    summary: str
    better: str | None = None
    worse: str | None = None
    fails: Failing | None = None


def is_name(name: str) -> bool:
    """Tell whether a data set name means this one."""
    return name == NAME or name.startswith(NAME + "/")


def load(split: Split) -> list[Post]:
    """Read the posts of a split: 252 to train on, 40 to choose recipes on, 86 to report on."""
    if split not in SPLITS:
        raise ValueError(f"expected a split of {', '.join(SPLITS)}, got {split!r}")
    rows = read_rows(FOLDER / f"{split}.jsonl")
    return [decode_fields(Post, row.fields, row.where) for row in rows]


def prompts(name: str) -> list[Prompt]:
    """Read ``tiny_tldr/SPLIT`` as prompts with references; ``tiny_tldr/pairs`` as its prompts.

    Raises:
        ValueError: There is no such split.
    """
    split = _split(name)
    if split == "pairs":
        return [Prompt(pair.prompt, pair.group) for pair in preferences(name).rows]
    return [Prompt(post.post, post.id, post.summary) for post in load(split)]


def preferences(name: str) -> LoadedPreferences:
    """Read ``tiny_tldr/pairs`` (unlabeled) or the gold pairs of ``tiny_tldr/dev`` or ``final``.

    Raises:
        ValueError: There is no such split, or it is ``train``, which has no pairs.
    """
    split = _split(name)
    if split == "pairs":
        return preferences_from_rows(read_rows(FOLDER / "pairs.jsonl"))
    if split == "train":
        raise ValueError(
            f"expected pairs, {NAME}/train has posts and summaries only; take {NAME}/pairs to "
            f"train on, {NAME}/dev or {NAME}/final to evaluate on"
        )
    return LoadedPreferences([gold_pair(post) for post in load(split)])


def gold_pair(post: Post) -> Preference:
    """Return better and worse as a labeled pair; which comes first is a hash of the id.

    Raises:
        ValueError: The post is for training and has none.
    """
    if post.better is None or post.worse is None:
        raise ValueError(f"expected a post with better and worse, {post.id} has none")
    is_first = chosen_is_first(0, post.id)
    sides = (post.better, post.worse) if is_first else (post.worse, post.better)
    return Preference(
        prompt=post.post,
        first=sides[0],
        second=sides[1],
        group=post.id,
        p_first=float(is_first),
        source="synthetic",
        provenance=Provenance(strategy="gold"),
    )


def _split(name: str) -> Split | Literal["pairs"]:
    """Return what stands after the slash."""
    if name not in NAMES:
        raise ValueError(f"expected {', '.join(NAMES)}, got {name!r}")
    return NAMES[name]
