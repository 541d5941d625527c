"""Who ranks (people and models are never pooled), what they see, and what they may say of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StrictBool, StrictInt, StringConstraints, model_validator

from rlaif_pl.evaluation.pairs import READERS
from rlaif_pl.text import whole_characters
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
    ranks: tuple[int, ...] | None  # by item, 1 for the best, ties 1, 1, 3; None: could not judge
    reason: str | None = None  # why not, where something was said
    seconds: float = 0.0  # time that the person looked at the task
    created: float = 0.0  # when, in seconds since 1970
    acceptable: tuple[bool, ...] | None = None  # each item of the task; None where not said
    kind: Kind = "person"  # of the rater

    @property
    def name(self) -> str:
        """The rater's, whose capitals do not matter."""
        return self.rater.casefold()

    def said(self) -> tuple[object, ...]:
        """Return what must not differ between two copies of a rating."""
        return self.ranks, self.acceptable, self.reason


@dataclass(frozen=True, slots=True)
class Progress:
    """How far people are."""

    mine: int  # ratings of the rater asking, skipped ones included
    done: int  # rankings by raters of the same kind that count toward what is wanted
    wanted: int  # rankings wanted of all tasks
    last: str | None  # submission that the person may undo; None where there is none


def rating_of(row: tuple[Any, ...]) -> Rating:
    """Read a row as ``store.SELECT`` finds it, in the order of the fields."""
    submission, rater, task, *lists, reason, seconds, created, acceptable, kind = row
    shown, ranks, fine = (x and tuple(json.loads(x)) for x in (*lists, acceptable))
    return Rating(submission, rater, task, shown, ranks, reason, seconds, created, fine, kind)


def shown_order(seed: int, rater: str, task: str, num_items: int) -> tuple[int, ...]:
    """Return the item at each place of the page, always the same; a rater's capitals do not matter."""

    def place(item: int) -> bytes:
        return hashlib.blake2b(f"{seed}/{rater.casefold()}/{task}/{item}".encode()).digest()

    return tuple(sorted(range(num_items), key=place))


def ranks_by_item(
    shown: Sequence[int], ranks: Sequence[int], ties: bool = False
) -> tuple[int, ...]:
    """Turn ranks by place on the page, 1 for the best, into ranks by item.

    With ``ties`` equal ranks are allowed, and the rank after them may count them or not; what comes
    back is one more than the number of better items, so 1, 1, 3. ``ValueError``: the ranks are not
    1..n, each once; with ties, not from 1..n, a rank a place.
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


def mid_ranks(ranks: Sequence[int]) -> list[float]:
    """Return ranks in which tied items share the mean of the ranks they take: 1.5, 1.5, 3."""
    return [rank + (ranks.count(rank) - 1) / 2 for rank in ranks]


def shares_of_best(ranks: Sequence[int]) -> list[float]:
    """Return how much each item is the best: 1 or 0, and 1/k where k items are equally good."""
    return [float(rank == 1) / ranks.count(1) for rank in ranks]


Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST_NAME)
]
Reason = Annotated[str, StringConstraints(strip_whitespace=True, max_length=LONGEST_REASON)]


class Person(BaseModel):
    """Who asks: a person, or a program that says so."""

    rater: Name
    kind: Kind | None = None

    @model_validator(mode="before")
    @classmethod
    def mend(cls, body: Any) -> Any:
        """Mend half characters, which neither SQLite nor a refusal that quotes them could hold."""
        return whole_characters(body)


class Answer(Person):
    """A ranking with what is acceptable, or that the rater cannot judge."""

    ranks: list[StrictInt] | None = None  # by place, from the top
    acceptable: list[StrictBool] | None = None  # likewise
    reason: Reason | None = None
    seconds: Annotated[float, Field(ge=0, le=MOST_SECONDS)] = 0.0

    def rating(self, submission: str, task: str, shown: Sequence[int], ties: bool) -> Rating:
        """Say by item what is said by place on the page.

        ``ValueError``: the ranks are none, or acceptable is not a value a place beside ranks.
        """
        ranks = None if self.ranks is None else ranks_by_item(shown, self.ranks, ties)
        kind, reason = self.kind or "person", self.reason or None
        said = Rating(submission, self.rater, task, tuple(shown), ranks, reason, self.seconds)
        if self.acceptable is None:
            return replace(said, kind=kind)
        if ranks is None or len(self.acceptable) != len(shown):
            raise ValueError(
                f"expected acceptable to be null or {len(shown)} values beside as many ranks, got "
                f"{len(self.acceptable)} values beside {len(ranks or ()) or 'no'} ranks; judge every "
                "response or none"
            )
        placed = dict(zip(shown, self.acceptable, strict=True))
        by_item = tuple(placed[item] for item in range(len(shown)))
        return replace(said, kind=kind, acceptable=by_item)


class FiledAnswer(Answer):
    """An answer with the texts that were read, in that order, and the task or the prompt."""

    kind: Kind
    texts: list[str]
    task: str | None = None
    prompt: str | None = None
