"""One rating, as it is kept; and how far raters are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rlaif_pl.evaluation.human.readers import Kind

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
