"""Log-probabilities of given text through ``echo``, for servers that have it and get it right.

Servers differ in whether the returned list is shifted against its tokens, in whether the start token
is listed, and in how they write half characters. So the list is first compared, on a known text, with
what the same server reports when asked for the next token of each beginning of that text.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlaif_pl.labeling.backends.endpoint_body import Completion
from rlaif_pl.labeling.backends.endpoint_errors import Table

KNOWN_TEXT = "The cat sat on the mat. It was a warm day, and the sun was high in the blue sky."
SHIFTS = (0, 1, -1)
LEAST_PROBES = 4  # places that must be comparable
TOLERANCE = 0.1  # nats; batched and quantized servers differ that much from themselves
RESYNC = 3  # tokens that must fit before a gap counts as closed
LONGEST_GAP = 24  # characters that tokens of half characters may stand for


class EchoError(ValueError):
    """The server's echo cannot be used; says why."""


def starts_of(tokens: Sequence[str], text: str) -> list[int]:
    """Find where in a text each token begins; tokens after its end are left out.

    Half characters, which a server writes as nothing or as U+FFFD, are stepped over up to the next
    tokens that fit. A start token that is listed but is not part of the text begins at 0.

    Raises:
        EchoError: The tokens do not spell the text.
    """
    starts: list[int] = []
    place, n = 0, 0
    while n < len(tokens) and place < len(text):
        token = tokens[n]
        if token and "\ufffd" not in token and text.startswith(token, place):
            starts.append(place)
            place += len(token)
            n += 1
            continue
        if place == 0 and not any(starts) and n < 2 and token and "\ufffd" not in token:
            starts.append(0)  # start token
            n += 1
            continue
        count = next(
            (k for k, t in enumerate(tokens[n:]) if t and "\ufffd" not in t), len(tokens) - n
        )
        place_after = _after_gap(tokens[n + count :], text, place) if count else None
        if place_after is None:
            raise EchoError(
                f"expected the echoed tokens to spell the text, got {token!r} where it goes on with "
                f"{text[place : place + 20]!r}"
            )
        starts += [place] * count
        place, n = place_after, n + count
    if place < len(text):
        raise EchoError(
            f"expected the whole text to be echoed, got {place} of {len(text)} characters"
        )
    return starts


def _after_gap(rest: Sequence[str], text: str, place: int) -> int | None:
    """Find where the text goes on after tokens of half characters; None if nowhere near."""
    ahead = "".join(rest[:RESYNC])
    for end in range(place + 1, min(place + LONGEST_GAP, len(text)) + 1):
        if text[end:].startswith(ahead) or (end == len(text) and not text[end:]):
            return end
    return None


def target_logprobs(found: Completion, context: str, target: str, shift: int) -> list[float | None]:
    """Return the log-probability of each token of the target.

    Args:
        found: Echo of ``context + target``.
        context: What comes before; its tokens must end where it ends.
        target: What is scored.
        shift: Place of a token's log-probability in the list, relative to the token's own.

    Raises:
        EchoError: A token belongs to both, or the tokens do not spell the text.
    """
    starts = starts_of(found.tokens, context + target)
    inside = [n for n, start in enumerate(starts) if start >= len(context)]
    if not inside or starts[inside[0]] != len(context):
        raise EchoError(
            f"expected a token to begin at {target[:20]!r}, got one that also holds the end of the "
            "context; begin the target with a space"
        )
    return [
        found.logprobs[n + shift] if 0 <= n + shift < len(found.logprobs) else None for n in inside
    ]


def find_shift(
    tokens: Sequence[str], logprobs: Sequence[float | None], tables: Sequence[Table]
) -> int:
    """Find out how the echoed list lies against its tokens.

    Args:
        tokens: Tokens of the known text.
        logprobs: Echoed list.
        tables: ``tables[n]``: likeliest tokens after ``tokens[:n]``, as reported by plain calls;
            empty where none was made.

    Raises:
        EchoError: The list fits no shift, or too few places could be compared.
    """
    known = {
        n: dict(table)[tokens[n]]
        for n, table in enumerate(tables)
        if 0 < n < len(tokens) and tokens[n] in dict(table)
    }
    if len(known) < LEAST_PROBES:
        raise EchoError(
            f"expected to compare the echo at {LEAST_PROBES} places at least, got {len(known)}; raise "
            "top_logprobs"
        )
    gaps = {shift: _gap(known, logprobs, shift) for shift in SHIFTS}
    best = min(SHIFTS, key=lambda shift: gaps[shift])
    if gaps[best] > TOLERANCE:
        raise EchoError(
            f"expected echoed log-probabilities within {TOLERANCE} nats of those of plain calls, got "
            f"differences of at least {gaps[best]:.2f} nats at some place for every shift in {SHIFTS}: "
            "this server's echo cannot be used with this model (some are wrong unless the text "
            "begins with the model's start token: set server.echo_start to it); use a "
            "LocalBackend instead"
        )
    return best


def _gap(known: dict[int, float], logprobs: Sequence[float | None], shift: int) -> float:
    """Largest difference at the places that were compared; infinite where the list has none."""
    gaps = []
    for n, value in known.items():
        echoed = logprobs[n + shift] if 0 <= n + shift < len(logprobs) else None
        gaps.append(float("inf") if echoed is None else abs(echoed - value))
    return max(gaps)
