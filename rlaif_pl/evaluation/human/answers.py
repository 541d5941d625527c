"""What a rater may say of a task, over HTTP and by file."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, StrictBool, StrictInt, StringConstraints, model_validator

from rlaif_pl.evaluation.human.records import LONGEST_NAME, LONGEST_REASON, MOST_SECONDS, Kind
from rlaif_pl.text import whole_characters

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


class FiledAnswer(Answer):
    """An answer with the texts that were read, in that order, and the task or the prompt."""

    kind: Kind
    texts: list[str]
    task: str | None = None
    prompt: str | None = None
