"""From the likeliest tokens that a server reports to log-probabilities of whole answers.

An answer may be among the tokens that are reported at its place ("1"), or begin with one ("10" with
"1", "(A)" with "("): then the server is asked once more, after that token, where it can go on from
there. What is not reported stays unknown. Of the likeliest 20 tokens a verdict is missing now and then:
vLLM reports those that it is asked for (``logprob_token_ids``, by the server's tokenizer); other
servers ignore the field, so what comes back is looked at.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from rlaif_pl.labeling.backends.endpoint_body import Table

if TYPE_CHECKING:
    from openai import AsyncOpenAI

DEPTH = 8  # longest chain of tokens followed; verdicts are short

LookUp = Callable[[str], Awaitable[Table | None]]
"""Given what the answer begins with, returns the likeliest next tokens; None if that failed."""


async def choose(
    options: Sequence[str], look_up: LookUp, ignore_space: bool = False, can_follow: bool = True
) -> tuple[float | None, ...] | None:
    """Return the log-probability of each option, None where it was not reported.

    A token counts for the longest option that it begins with. An option that no token begins with is
    followed through the likeliest token that it begins with. What a longer option takes is taken from
    the shorter one it begins with ("10" from "1"); where the longer one is not reported, it is at most
    as likely as the least reported token, and nothing is taken. Where nothing can be followed, a
    beginning of one option alone counts for it.

    Args:
        options: Different strings.
        look_up: Asks the server; called with "" first. None is returned if that failed.
        ignore_space: Count " 1" and "1" as the same answer, as a reader would.
        can_follow: Whether ``look_up`` may be called with more than "".
    """
    names = [option.lstrip() if ignore_space else option for option in options]
    if len(set(names)) < len(names) or "" in names:
        raise ValueError(f"expected different options with text in them, got {list(options)}")
    first = await look_up("")
    if first is None:
        return None
    if ignore_space:
        first = tuple((token.lstrip(), value) for token, value in first)
    masses = await _masses(names, "", first, look_up if can_follow else None, DEPTH)
    return tuple(math.log(mass) if (mass := masses.get(name)) else None for name in names)


async def _masses(
    options: Sequence[str], start: str, table: Table, look_up: LookUp | None, depth: int
) -> dict[str, float]:
    """Probability of each option, given that the answer begins with ``start``."""
    masses: defaultdict[str, float] = defaultdict(float)
    beginnings: defaultdict[str, float] = defaultdict(float)
    for token, logprob in table:
        text, mass = start + token, math.exp(logprob)
        if not token or not mass:
            continue
        if winner := _longest(options, text):
            masses[winner] += mass
        if any(len(option) > len(text) and option.startswith(text) for option in options):
            beginnings[text] += mass
    if look_up is None:
        for text, mass in beginnings.items():
            led_to = [option for option in options if option.startswith(text)]
            if len(led_to) == 1 and not _longest(options, text):
                masses[led_to[0]] += mass
    if depth == 0 or look_up is None:
        return masses
    # beginnings worth another question, each with the options it may lead to
    follow: dict[str, list[str]] = {}
    for option in options:
        able = [b for b in beginnings if len(option) > len(b) and option.startswith(b)]
        if option not in masses and able:
            follow.setdefault(max(able, key=beginnings.__getitem__), []).append(option)
    for text, longer in follow.items():
        after = await look_up(text)
        parts = {} if after is None else await _masses(longer, text, after, look_up, depth - 1)
        for option, part in parts.items():
            masses[option] += beginnings[text] * part
        if shorter := _longest(options, text):
            masses[shorter] -= beginnings[text] * sum(parts.values())
            masses[shorter] = max(masses[shorter], 1e-12)  # rounding
    return masses


def split_by(options: Sequence[str], logprobs: Sequence[float | None], table: Table) -> str | None:
    """Return a token in a table that an option of unknown probability begins with, if there is one.

    A token that is an option itself is that answer, and splits none.
    """
    names = [option.lstrip() for option in options]
    unknown = [name for name, value in zip(names, logprobs, strict=True) if value is None]
    tokens = [token for token, _ in table if token.strip() and token.lstrip() not in names]
    return next((t for t in tokens if any(o.startswith(t.lstrip()) for o in unknown)), None)


def _longest(options: Sequence[str], text: str) -> str | None:
    return max((o for o in options if text.startswith(o)), key=len, default=None)


MOST_IDS = 128  # vLLM's own limit
TRIES = 3  # requests that a server may leave unanswered before its tokenizer is given up
SECONDS = 30.0  # longest wait for a tokenizer


class VerdictTokens:
    """Looks up which token comes next where an answer is one of a few strings."""

    def __init__(self, base_url: str, model: str, is_known: bool | None = None) -> None:
        self.url = base_url.rstrip("/").removesuffix("/v1") + "/tokenize"
        self.model = model
        self.is_known = is_known is not False
        self._left = TRIES
        self._tokens: dict[str, tuple[int, ...]] = {}

    async def after(
        self, client: AsyncOpenAI, start: str, options: Sequence[str]
    ) -> tuple[int, ...] | None:
        """Return the tokens that options begin with behind a text; None where that is not known."""
        ids: dict[int, None] = {}
        if not self.is_known or not options:
            return None
        before = await self._tokenize(client, start) if start else ()
        for option in options:
            whole = None if before is None else await self._tokenize(client, start + option)
            if before is None or whole is None or whole[: len(before)] != before:
                return None  # the option's first token would hold the end of the text
            ids[whole[len(before)]] = None
        return tuple(ids) if len(ids) <= MOST_IDS else None

    def check(self, table: Table, ids: Sequence[int], options: Sequence[str]) -> bool:
        """Tell whether a table holds the tokens that were asked for; if not, none is asked again."""
        found = {token for token, _ in table if token and any(o.startswith(token) for o in options)}
        self.is_known = len(found) >= len(ids)
        return self.is_known

    async def _tokenize(self, client: AsyncOpenAI, text: str) -> tuple[int, ...] | None:
        """Ask the server's tokenizer, once a text."""
        if text in self._tokens:
            return self._tokens[text]
        body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        wait: Any = {"timeout": SECONDS}
        try:
            found: Any = await client.post(self.url, cast_to=object, body=body, options=wait)
            tokens = tuple(int(token) for token in found["tokens"])
        except Exception:  # noqa: BLE001 - whatever it is, the likeliest tokens do without
            self._left -= 1
            self.is_known = self._left > 0
            return None
        if not tokens:
            self.is_known = False
            return None
        self._tokens[text] = tokens
        return tokens
