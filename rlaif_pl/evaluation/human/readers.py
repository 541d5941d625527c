"""Who ranks: people, or programs that read as people do. Their figures are never pooled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
