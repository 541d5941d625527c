"""Who ranks: people, or programs that read as people do. Their figures are never pooled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlaif_pl.evaluation.gold import READERS
from rlaif_pl.types import Source

Kind = Literal["person", "model"]


@dataclass(frozen=True, slots=True)
class Readers:
    """One kind of reader, in words and in keys.

    Attributes:
        kind: As a rater declares it.
        plural: In headings, and as the name of their verdicts.
        one: One of them; before a number, what a rater is called in place of the name.
        source: Of preferences made of their votes.
        prefix: Of their numbers in metrics.json.
    """

    kind: Kind
    plural: str
    one: str
    source: Source
    prefix: str


PEOPLE = Readers("person", READERS["human"], "person", "human", "rating")
MODELS = Readers("model", READERS["reading"], "language model", "reading", "rating/models")
BY_KIND: dict[Kind, Readers] = {readers.kind: readers for readers in (PEOPLE, MODELS)}
