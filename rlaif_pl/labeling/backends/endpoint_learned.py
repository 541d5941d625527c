"""What a back end finds out about its server on the way."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlaif_pl.labeling.backends.endpoint_tokens import VerdictTokens


@dataclass(slots=True)
class Learned:
    """What a back end has found out about its server, kept from one batch of calls to the next.

    Attributes:
        shift: How the server's echo lies against its tokens; None before it was tested.
        is_reached: It answered a request in any way.
        has_answered: It answered one otherwise than with an error of its own.
        refused: Questions by the sentence with which they were refused.
        excused: Sentences that are about the questions, not about every request.
        unlikely: Choices in a row, from the first, whose options had next to no probability; None
            once one had.
        lacks: By optional field of a request, how many of its values the server refused.
        tokens: Knows the verdicts' tokens; None before any was looked up.
    """

    shift: int | None = None
    is_reached: bool = False
    has_answered: bool = False
    refused: dict[str, set[str]] = field(default_factory=dict)
    excused: set[str] = field(default_factory=set)
    unlikely: int | None = 0
    lacks: dict[str, int] = field(default_factory=dict)
    tokens: VerdictTokens | None = None
