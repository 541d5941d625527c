"""From a server's likeliest tokens to the log-probability of whole answers.

A server reports the likeliest tokens at the place of the answer. An answer may be one of them ("1"),
or begin with one ("10" with "1", "(A)" with "("): then the server is asked once more, after that
token. What is not among the reported tokens stays unknown.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence

from rlaif_pl.labeling.backends.endpoint_errors import Table

DEPTH = 8  # longest chain of tokens followed; verdicts are short

LookUp = Callable[[str], Awaitable[Table | None]]
"""Given what the answer begins with, returns the likeliest next tokens; None if that failed."""


async def choose(
    options: Sequence[str], look_up: LookUp, ignore_space: bool = False
) -> tuple[float | None, ...] | None:
    """Return the log-probability of each option, None where it was not reported.

    Rules: a token counts for the longest option that it begins with. An option that no token
    begins with is followed through the likeliest token that it begins with. What a longer option
    takes is taken from the shorter one it begins with ("10" from "1"); where the longer one is not
    reported, it is at most as likely as the least reported token, and nothing is taken.

    Args:
        options: Different strings.
        look_up: Asks the server; called with "" first.
        ignore_space: Count " 1" and "1" as the same answer, as a reader would.

    Returns:
        None if the first look-up failed.
    """
    names = [option.lstrip() if ignore_space else option for option in options]
    if len(set(names)) < len(names) or "" in names:
        raise ValueError(f"expected different options with text in them, got {list(options)}")
    first = await look_up("")
    if first is None:
        return None
    if ignore_space:
        first = tuple((token.lstrip(), value) for token, value in first)
    masses = await _masses(names, "", first, look_up, DEPTH)
    return tuple(math.log(mass) if (mass := masses.get(name)) else None for name in names)


async def _masses(
    options: Sequence[str], start: str, table: Table, look_up: LookUp, depth: int
) -> dict[str, float]:
    """Probability of each option, given that the answer begins with ``start``."""
    masses: dict[str, float] = {}
    beginnings: dict[str, float] = {}
    for token, logprob in table:
        text, mass = start + token, math.exp(logprob)
        if not token or not mass:
            continue
        if winner := _longest(options, text):
            masses[winner] = masses.get(winner, 0.0) + mass
        if any(len(option) > len(text) and option.startswith(text) for option in options):
            beginnings[text] = beginnings.get(text, 0.0) + mass
    if depth == 0:
        return masses
    for text, longer in _to_follow(options, masses, beginnings).items():
        after = await look_up(text)
        parts = {} if after is None else await _masses(longer, text, after, look_up, depth - 1)
        for option, part in parts.items():
            masses[option] = masses.get(option, 0.0) + beginnings[text] * part
        if shorter := _longest(options, text):
            masses[shorter] -= beginnings[text] * sum(parts.values())
            masses[shorter] = max(masses[shorter], 1e-12)  # rounding
    return masses


def _longest(options: Sequence[str], text: str) -> str | None:
    """Longest option that a text begins with."""
    return max((o for o in options if text.startswith(o)), key=len, default=None)


def _to_follow(
    options: Sequence[str], masses: dict[str, float], beginnings: dict[str, float]
) -> dict[str, list[str]]:
    """Beginnings worth another question, each with the options it may lead to."""
    follow: dict[str, list[str]] = {}
    for option in options:
        able = [b for b in beginnings if len(option) > len(b) and option.startswith(b)]
        if option not in masses and able:
            follow.setdefault(max(able, key=lambda b: beginnings[b]), []).append(option)
    return follow
