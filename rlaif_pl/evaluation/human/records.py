"""Who ranks, in which order texts are shown, and what one rating says by place and by item.

People and models are never pooled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlaif_pl.evaluation.pairs import READERS
from rlaif_pl.types import Source

Kind = Literal["person", "model"]


@dataclass(frozen=True, slots=True)
class Readers:
    """One kind of reader, in words and in keys."""

    kind: Kind  # as a rater declares it
    plural: str  # in headings, and as the name of their verdicts
    one: str  # one of them; before a number, what a rater is called in place of the name
    source: Source  # of preferences made of their votes
    prefix: str  # of their numbers in metrics.json


PEOPLE = Readers("person", READERS["human"], "person", "human", "rating")
MODELS = Readers("model", READERS["reading"], "language model", "reading", "rating/models")
BY_KIND: dict[Kind, Readers] = {readers.kind: readers for readers in (PEOPLE, MODELS)}


LONGEST_NAME = 60  # characters, of a rater
LONGEST_REASON = 200
MOST_SECONDS = 86_400.0  # that a task was looked at


@dataclass(frozen=True, slots=True)
class Rating:
    """What one rater said of one task."""

    submission: str  # names the act of sending; sent twice, it counts once
    rater: str  # name of the person or program
    task: str  # `Task.id`
    shown: tuple[int, ...]  # item at each place of the page, from the top
    # rank of each item of the task, 1 for the best, equal for ties (1, 1, 3); None where the rater
    # could not judge
    ranks: tuple[int, ...] | None
    reason: str | None = None  # why not, where something was said
    seconds: float = 0.0  # time that the person looked at the task
    created: float = 0.0  # when, in seconds since 1970
    # whether each item of the task is acceptable; None where that was not said
    acceptable: tuple[bool, ...] | None = None
    kind: Kind = "person"  # of the rater


@dataclass(frozen=True, slots=True)
class Progress:
    """How far people are."""

    mine: int  # ratings of the rater asking, skipped ones included
    done: int  # rankings by raters of the same kind that count toward what is wanted
    wanted: int  # rankings wanted of all tasks
    last: str | None  # submission that the person may undo; None where there is none


def said(rating: Rating) -> tuple[object, ...]:
    """Return what must not differ between two copies of a rating."""
    return rating.ranks, rating.acceptable, rating.reason


def rating_of(row: tuple[Any, ...]) -> Rating:
    """Read a row as ``schema.SELECT`` finds it."""
    submission, rater, task, shown, ranks, reason, seconds, created, acceptable, kind = row
    return Rating(
        submission,
        rater,
        task,
        tuple(json.loads(shown)),
        None if ranks is None else tuple(json.loads(ranks)),
        reason,
        float(seconds),
        float(created),
        None if acceptable is None else tuple(json.loads(acceptable)),
        kind,
    )


def shown_order(seed: int, rater: str, task: str, num_items: int) -> tuple[int, ...]:
    """Return the item at each place of the page, always the same; a rater's capitals do not matter."""

    def place(item: int) -> bytes:
        return hashlib.blake2b(f"{seed}/{rater.casefold()}/{task}/{item}".encode()).digest()

    return tuple(sorted(range(num_items), key=place))


def ranks_by_item(
    shown: Sequence[int], ranks: Sequence[int], ties: bool = False
) -> tuple[int, ...]:
    """Turn ranks by place on the page into ranks by item.

    Args:
        shown: Item at each place.
        ranks: Rank of the item at each place, 1 for the best.
        ties: Whether equal ranks are allowed. The rank after them may count them or not: 1, 1, 3 and
            1, 1, 2 say the same.

    Returns:
        Ranks as one more than the number of better items, so 1, 1, 3.

    Raises:
        ValueError: The ranks are not 1..n, each once; with ties, not from 1..n, a rank a place.
    """
    n = len(shown)
    is_complete = len(ranks) == n and all(1 <= rank <= n for rank in ranks)
    if not is_complete or (not ties and len(set(ranks)) < n):
        wanted = "one a response, equal ones for ties" if ties else "each once"
        raise ValueError(
            f"expected ranks 1 to {n}, {wanted}, got {list(ranks)}; rank every response"
        )
    placed = dict(zip(shown, ranks, strict=True))
    return tuple(1 + sum(other < placed[item] for other in ranks) for item in range(n))


def judged(
    shown: Sequence[int],
    ranks: Sequence[int] | None,
    acceptable: Sequence[bool] | None,
    ties: bool = False,
) -> tuple[tuple[int, ...] | None, tuple[bool, ...] | None]:
    """Turn what a rater said by place on the page into what was said by item; None stays None.

    Raises:
        ValueError: The ranks are none, or acceptable has more or fewer values than there are places
            or stands without ranks.
    """
    by_item = None if ranks is None else ranks_by_item(shown, ranks, ties)
    if acceptable is None:
        return by_item, None
    if by_item is None or len(acceptable) != len(shown):
        raise ValueError(
            f"expected acceptable to be null or {len(shown)} values beside as many ranks, got "
            f"{len(acceptable)} values beside {'no' if ranks is None else len(ranks)} ranks; judge "
            "every response or none"
        )
    placed = dict(zip(shown, acceptable, strict=True))
    return by_item, tuple(placed[item] for item in range(len(shown)))


def mid_ranks(ranks: Sequence[int]) -> list[float]:
    """Return ranks in which tied items share the mean of the ranks they take: 1.5, 1.5, 3."""
    return [rank + (ranks.count(rank) - 1) / 2 for rank in ranks]


def shares_of_best(ranks: Sequence[int]) -> list[float]:
    """Return how much each item is the best: 1 or 0, and 1/k where k items are equally good."""
    return [float(rank == 1) / ranks.count(1) for rank in ranks]
