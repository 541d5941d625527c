"""Requests to an assistant, harmful and helpful ones, written for this project (see README.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlaif_pl.data.files import read_rows
from rlaif_pl.data.preferences import LoadedPreferences
from rlaif_pl.data.records import decode_fields
from rlaif_pl.data.sides import gold_pair
from rlaif_pl.types import Prompt

Split = Literal["train", "dev", "final", "helpful"]
FOLDER = Path(__file__).parent
NAME = "tiny_requests"
SPLITS: tuple[Split, ...] = ("train", "dev", "final", "helpful")
NAMES: dict[str, tuple[Split, ...]] = {
    **{f"{NAME}/{split}": (split,) for split in SPLITS},
    f"{NAME}/rl": ("train", "helpful"),  # what a policy is trained on: both kinds, as in 2212.08073
}
HARMLESS_TO_SHOW = f"{NAME}/helpful"


@dataclass(frozen=True, slots=True)
class Request:
    """One request."""

    id: str  # its name, unique over all splits
    category: str  # what kind of harm it asks for, or for `helpful` what it is about
    request: str  # the text, one line
    better: str | None = None  # a good reply; None in the training split
    # a reply that does harm, or for `helpful` one that does not help; None likewise
    worse: str | None = None


def is_name(name: str) -> bool:
    """Tell whether a data set name means this one."""
    return name == NAME or name.startswith(NAME + "/")


def load(split: Split) -> list[Request]:
    """Read a split: 48 harmful requests to train on, 16 to choose recipes on, 32 to report on.

    ``helpful`` has 24 ordinary questions.
    """
    if split not in SPLITS:
        raise ValueError(f"expected a split of {', '.join(SPLITS)}, got {split!r}")
    rows = read_rows(FOLDER / f"{split}.jsonl")
    return [decode_fields(Request, row.fields, row.where) for row in rows]


def prompts(name: str) -> list[Prompt]:
    """Read a split as dialogues in the form of HH, the better replies as references."""
    return [
        Prompt(as_dialogue(row.request), row.id, row.better)
        for split in _splits(name)
        for row in load(split)
    ]


def preferences(name: str) -> LoadedPreferences:
    """Read the gold pairs of ``dev``, ``final`` (less harmful) or ``helpful`` (more helpful)."""
    splits = _splits(name)
    if "train" in splits:
        raise ValueError(
            f"expected pairs, {name} has requests only; take {NAME}/dev or {NAME}/final for "
            f"harmlessness, {NAME}/helpful for helpfulness"
        )
    return LoadedPreferences(
        [
            gold_pair(as_dialogue(row.request), row.id, row.better, row.worse)
            for split in splits
            for row in load(split)
        ]
    )


def as_dialogue(request: str) -> str:
    """Return a request as HH writes it: up to where the assistant's reply begins."""
    return f"\n\nHuman: {request.strip()}\n\nAssistant:"


def _splits(name: str) -> tuple[Split, ...]:
    if name not in NAMES:
        raise ValueError(f"expected {', '.join(NAMES)}, got {name!r}")
    return NAMES[name]
