"""The embedded data set: short posts with summaries, written for this project (see README.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlaif_pl.data.files import read_rows
from rlaif_pl.data.preferences import LoadedPreferences, preferences_from_rows
from rlaif_pl.data.records import decode_fields
from rlaif_pl.data.sides import gold_pair
from rlaif_pl.types import Preference, Prompt, Provenance

Split = Literal["train", "dev", "final", "faults_dev", "faults_final"]
Gold = Literal["dev", "final"]
Failing = Literal["coherence", "accuracy", "coverage"]
Choice = Literal["first", "second", "tie"]
FOLDER = Path(__file__).parent
NAME = "tiny_tldr"
SPLITS: tuple[Split, ...] = ("train", "dev", "final", "faults_dev", "faults_final")
NAMES: dict[str, Split | Literal["pairs"]] = {
    **{f"{NAME}/{split}": split for split in SPLITS},
    f"{NAME}/pairs": "pairs",
}
P_FIRST: dict[Choice, float] = {"first": 1.0, "second": 0.0, "tie": 0.5}


@dataclass(frozen=True, slots=True)
class Post:
    """One post."""

    id: str  # its name, unique over all splits
    topic: str  # what it is about, one of thirty everyday topics
    post: str  # the text, 40 to 70 words; 40 to 90 in the splits of faults
    summary: str  # reference summary, 10 to 18 words; 8 to 20 in the splits of faults
    better: str | None = None  # a good summary by another writer; None but in the splits of faults
    worse: str | None = None  # a summary that fails in one way; None but in the splits of faults
    fails: Failing | None = None  # what `worse` lacks; None but in the splits of faults


@dataclass(frozen=True, slots=True)
class BlindReading:
    """Which of two sampled summaries a blind reader preferred."""

    post: str  # id of the post
    first: str  # a summary sampled from the SFT policy of the quickstart
    second: str  # another one
    verdict: Choice  # the reader's
    reason: str  # one line
    # that of a second reader who did not know the first's; None where nobody read the pair again
    second_verdict: Choice | None = None


def is_name(name: str) -> bool:
    """Tell whether a data set name means this one."""
    return name == NAME or name.startswith(NAME + "/")


def load(split: Split) -> list[Post]:
    """Read the posts of a split: 1,859 to train on, 60 to choose recipes on, 120 to report on.

    ``faults_dev`` and ``faults_final`` are 40 and 86 other posts with pairs of one fault each.
    """
    if split not in SPLITS:
        raise ValueError(f"expected a split of {', '.join(SPLITS)}, got {split!r}")
    rows = read_rows(FOLDER / f"{split}.jsonl")
    return [decode_fields(Post, row.fields, row.where) for row in rows]


def readings(split: Gold) -> list[BlindReading]:
    """Read the verdicts of blind readers on pairs of sampled summaries of the posts of a split."""
    rows = read_rows(FOLDER / f"gold_{split}.jsonl")
    return [decode_fields(BlindReading, row.fields, row.where) for row in rows]


def prompts(name: str) -> list[Prompt]:
    """Read ``tiny_tldr/SPLIT`` as prompts with references; ``tiny_tldr/pairs`` as its prompts."""
    split = _split(name)
    if split == "pairs":
        return [Prompt(pair.prompt, pair.group) for pair in preferences(name).rows]
    return [Prompt(post.post, post.id, post.summary) for post in load(split)]


def preferences(name: str) -> LoadedPreferences:
    """Read the pairs of a split; ``train`` has none.

    ``tiny_tldr/pairs`` are unlabeled; ``dev`` and ``final`` are pairs that the SFT policy sampled,
    with the verdicts of a language model that read them blind; ``faults_dev`` and ``faults_final``
    are pairs of written summaries, of which one has a fault.
    """
    split = _split(name)
    if split == "pairs":
        return preferences_from_rows(read_rows(FOLDER / "pairs.jsonl"))
    if split == "train":
        raise ValueError(
            f"expected pairs, {NAME}/train has posts and summaries only; take {NAME}/pairs to "
            f"train on, {NAME}/dev or {NAME}/final to evaluate on"
        )
    if split == "dev" or split == "final":
        posts = {post.id: post for post in load(split)}
        return LoadedPreferences([read_pair(each, posts[each.post]) for each in readings(split)])
    return LoadedPreferences(
        [gold_pair(post.post, post.id, post.better, post.worse) for post in load(split)]
    )


def read_pair(reading: BlindReading, post: Post) -> Preference:
    """Return what a reader preferred as a labeled pair; a tie is 0.5."""
    return Preference(
        prompt=post.post,
        first=reading.first,
        second=reading.second,
        group=post.id,
        p_first=P_FIRST[reading.verdict],
        source="reading",
        provenance=Provenance(strategy="gold"),
    )


def _split(name: str) -> Split | Literal["pairs"]:
    if name not in NAMES:
        raise ValueError(f"expected {', '.join(NAMES)}, got {name!r}")
    return NAMES[name]
