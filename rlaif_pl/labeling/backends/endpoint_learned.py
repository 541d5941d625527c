"""What a back end finds out about its server on the way."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlaif_pl.labeling.backends.endpoint_tokens import VerdictTokens


@dataclass(slots=True)
class Learned:
    """What a back end has found out about its server, kept from one batch of calls to the next."""

    # how the server's echo lies against its tokens; None before it was tested
    shift: int | None = None
    is_reached: bool = False  # it answered a request in any way
    has_answered: bool = False  # it answered one otherwise than with an error of its own
    # questions by the sentence with which they were refused
    refused: dict[str, set[str]] = field(default_factory=dict)
    # sentences that are about the questions, not about every request
    excused: set[str] = field(default_factory=set)
    # choices in a row, from the first, whose options had next to no probability; None once one had
    unlikely: int | None = 0
    # by optional field of a request, how many of its values the server refused
    lacks: dict[str, int] = field(default_factory=dict)
    tokens: VerdictTokens | None = None  # knows the verdicts' tokens; None before any was looked up
