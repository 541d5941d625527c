"""Pairs of a response and the same with an end that belongs to another prompt."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from rlaif_pl.engine.sampling import sample_seed
from rlaif_pl.types import Preference, Prompt, Provenance

PUNCTUATION = re.compile(r"(?<=[,;:.!?])\s+|(?<=[、，；：。！？])")  # noqa: RUF001 - full-width
SPACES = re.compile(r"\s+")


def spliced_pairs(
    rows: Sequence[Prompt],
    texts_of: Sequence[Sequence[str]],
    author: str,
    count: int = 1,
    seed: int = 0,
) -> list[Preference]:
    """Pair responses with themselves after their ends were taken from responses to other prompts.

    Two responses sampled to one prompt rarely differ in whether they belong to it, so a reward learns
    little about that and may come to like a stock phrase that fits every prompt. These pairs differ in
    nothing else. They are unlabeled: the labeler judges them as it does all others. After "RRM: Robust
    Reward Model Training Mitigates Reward Hacking" (arXiv 2409.13156), which pairs responses to other
    prompts, whole and without asking a labeler.

    Args:
        rows: Prompts. ``P``
        texts_of: Responses, as many to each prompt; see ``splice`` for where they are cut. ``P`` lists
        author: What the pairs say about who wrote them.
        count: Pairs a prompt, of its first responses, at least 0.
        seed: Chooses the ends, and which of a pair comes first.

    Raises:
        ValueError: ``count`` exceeds the responses a prompt, or there is one prompt only.
    """
    check_spliced(count, min(map(len, texts_of), default=0), rows)
    found = zip(rows, texts_of, strict=True)
    donors = [(row.group, text) for row, texts in found for text in texts if text]
    if len({group for group, _ in donors}) < 2:
        return []  # all other responses are empty
    pairs = []
    for row, texts in zip(rows, texts_of, strict=True):
        for place, own in enumerate(texts[:count]):
            draw = random.Random(sample_seed(seed, "splice", row.group, place))
            group, other = draw.choice(donors)
            while group == row.group:
                group, other = draw.choice(donors)
            mixed = splice(own, other)
            sides = [(own, author), (mixed, f"{author} spliced")]
            draw.shuffle(sides)
            (first, one), (second, two) = sides
            if own and own != mixed:
                known = Provenance(first_policy=one, second_policy=two)
                pairs.append(Preference(row.text, first, second, row.group, provenance=known))
    return pairs


def check_spliced(count: int, responses: int, rows: Sequence[Prompt]) -> None:
    """Raise ValueError where ``count`` spliced pairs cannot be made of each prompt's ``responses``."""
    if not 0 <= count <= responses:
        raise ValueError(
            f"expected spliced of 0 to {responses}, the responses to a prompt, got {count}"
        )
    groups = len({row.group for row in rows})
    if count and groups < 2:
        raise ValueError(
            f"expected two prompts or more with spliced: {count}, which takes ends of responses to "
            f"other prompts, got {groups}; set spliced: 0"
        )


def splice(start: str, end: str) -> str:
    """Join the first part of one text and the last of another, each cut near its middle.

    A cut is where a clause or sentence ends (punctuation); else between words, else between characters.
    """
    return start[: _middle(start)] + end[_middle(end) :]


def _middle(text: str) -> int:
    end = len(text.rstrip())
    for pattern in (PUNCTUATION, SPACES):
        places = [found.start() for found in pattern.finditer(text) if 0 < found.start() < end]
        if places:
            return min(places, key=lambda place: abs(place - end / 2))
    return end // 2
