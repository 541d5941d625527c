"""Who ranks, what one rating says, and how far raters are; people and models are never pooled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from rlaif_pl.evaluation.gold import READERS
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
