"""From what a server reports of tokens to log-probabilities of whole answers and of given text.

Answers: one may be among the tokens that are reported at its place ("1"), or begin with one ("10" with
"1", "(A)" with "("): then the server is asked once more, after that token, where it can go on from
there. What is not reported stays unknown. Of the likeliest 20 tokens a verdict is missing now and then:
vLLM reports those that it is asked for (``logprob_token_ids``, by the server's tokenizer); other
servers ignore the field, so what comes back is looked at.

Given text, through ``echo``: servers differ in whether the list is shifted against its tokens, in
whether the start token is listed, and in how they write half characters. So the list is first compared,
on a known text, with what the same server reports when asked for the next token of each beginning of
that text. Rounding alone moves both; how far is measured on the server itself, which echoes the text
again in front of a longer one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from rlaif_pl.labeling.backends.endpoint_body import Completion, Table
from rlaif_pl.labeling.backends.endpoint_errors import EndpointError

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
