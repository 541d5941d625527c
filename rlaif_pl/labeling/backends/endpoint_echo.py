"""From the text that a server echoes to log-probabilities of its tokens.

Servers differ in whether the list is shifted against its tokens, in whether the start token is listed,
and in how they write half characters. So the list is first compared, on a known text, with what the
same server reports when asked for the next token of each beginning of that text. Rounding alone moves
both; how far is measured on the server itself, which echoes the text again in front of a longer one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile

from rlaif_pl.labeling.backends.endpoint_body import Completion, Table
from rlaif_pl.labeling.backends.endpoint_errors import EndpointError

KNOWN_TEXT = "The cat sat on the mat. It was a warm day, and the sun was high in the blue sky."
SHIFTS = (0, 1, -1)
LEAST_PROBES = 4  # places that must be comparable
FACTOR = 3.0  # times a server's own noise that its echo may be off by
# Nats, root mean square: what bfloat16 does to a server that repeats itself exactly. Logits of 16 to
# 32 lie 1/8 apart, so each is rounded by 1/8 / sqrt(12) = 0.036; two are compared, and the states that
# they are made of were rounded about as much: sqrt(2) * sqrt(2) * 0.036 = 0.07, and some room. (The
# embedded model in bfloat16, right as it is: 0.05, and 0.15 at the worst of 22 places.)
ROUNDING = 0.1
RESYNC = 3  # tokens that must fit before a gap counts as closed
LONGEST_GAP = 24  # characters that tokens of half characters may stand for


class EchoError(EndpointError):
    """The server's echo cannot be used; says why."""


def starts_of(tokens: Sequence[str], text: str) -> list[int]:
    """Find where in a text each token begins; tokens after its end are left out.

    Half characters, which a server writes as nothing or as U+FFFD, are stepped over up to the next
    tokens that fit. A start token that is no part of the text begins at 0. ``EchoError``: the tokens do
    not spell the text.
    """
    starts: list[int] = []
    is_half = [not token or "\ufffd" in token for token in tokens]
    place, n = 0, 0
    while n < len(tokens) and place < len(text):
        token = tokens[n]
        if not is_half[n] and text.startswith(token, place):
            starts.append(place)
            place += len(token)
            n += 1
            continue
        if not is_half[n] and place == 0 and not any(starts) and n < 2:
            starts.append(0)  # start token
            n += 1
            continue
        count = (is_half[n:] + [False]).index(False)
        ahead, most = "".join(tokens[n + count :][:RESYNC]), min(place + LONGEST_GAP, len(text))
        ends = range(place + 1, most + 1) if count else ()  # where the text may go on after a gap
        place_after = next((e for e in ends if text.startswith(ahead, e) or e == len(text)), None)
        if place_after is None:
            raise EchoError(
                f"expected the echoed tokens to spell the text, got {token!r} where it goes on with "
                f"{text[place : place + 20]!r}"
            )
        starts += [place] * count
        place, n = place_after, n + count
    if place < len(text):
        said = f"got {place} of {len(text)} characters"
        raise EchoError(f"expected the whole text to be echoed, {said}")
    return starts


def target_logprobs(found: Completion, context: str, target: str, shift: int) -> list[float | None]:
    """Return the log-probability of each token of the target, of an echo of ``context + target``.

    ``EchoError``: a token belongs to both, or the tokens do not spell the text.
    """
    starts = starts_of(found.tokens, context + target)
    inside = [n for n, start in enumerate(starts) if start >= len(context)]
    if not inside or starts[inside[0]] != len(context):
        raise EchoError(
            f"expected a token to begin at {target[:20]!r}, got one that also holds the end of the "
            "context; begin the target with a space"
        )
    values = _shifted(found, shift)
    return [values[n] for n in inside]


def _shifted(found: Completion, shift: int) -> list[float | None]:
    """Log-probability of each token, None where the list has none."""
    places, values = range(shift, len(found.tokens) + shift), found.logprobs
    return [values[place] if 0 <= place < len(values) else None for place in places]


def find_shift(found: Completion, tables: Sequence[Table], longer: Completion | None = None) -> int:
    """Find out how the echoed list lies against its tokens: the place of a value less the token's own.

    ``tables[n]`` holds the likeliest tokens after the first ``n``, as a plain call reports them, and
    ``longer`` is the echo of a longer text that begins alike. ``EchoError``: the list fits no shift, or
    too few places could be compared.
    """
    tokens = found.tokens
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
    allowed = max(ROUNDING, FACTOR * own_noise(found, longer))
    gaps: dict[int, float] = {}
    for shift in SHIFTS:
        echoed = _shifted(found, shift)
        pairs = [(echoed[n], value) for n, value in known.items()]
        gaps[shift] = _rms([math.inf if one is None else one - value for one, value in pairs])
    best = min(SHIFTS, key=gaps.__getitem__)
    if not gaps[best] <= allowed:
        raise EchoError(
            f"expected echoed log-probabilities within {allowed:.2g} nats of those of plain calls "
            f"(root mean square; {FACTOR:g} times what the server differs by from itself, and at least "
            f"{ROUNDING}), got {gaps[best]:.2f} or more for every shift in {SHIFTS}: this server's "
            "echo cannot be used with this model (some are wrong unless the text begins with the "
            "model's start token: set server.echo_start to it); use a LocalBackend instead"
        )
    return best


def own_noise(found: Completion, longer: Completion | None) -> float:
    """Return how far a server is from itself on the tokens that two texts begin with, in nats (rms)."""
    if longer is None:
        return 0.0
    pairs = zip(found.tokens, longer.tokens, strict=False)
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    values = zip(found.logprobs[: alike - 1], longer.logprobs, strict=False)  # whatever the shift
    return _rms([a - b for a, b in values if a is not None and b is not None])


def _rms(gaps: Sequence[float]) -> float:
    return math.hypot(*gaps) / math.sqrt(max(len(gaps), 1))
