"""One request to a server, repeated as long as that may help, with every failure by its kind."""

from __future__ import annotations

import asyncio
import importlib
import random
import time
import warnings
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from rlaif_pl.labeling.backends.endpoint_body import BodyError, Completion, parse_body
from rlaif_pl.labeling.backends.endpoint_choose import VerdictTokens
from rlaif_pl.labeling.backends.endpoint_errors import (
    AGAIN,
    EndpointError,
    ReportedError,
    failing,
    meaning_of,
    reason_of,
    refuses_all,
    sentence_of,
    unreachable,
    useless,
    without_field,
)
from rlaif_pl.labeling.backends.endpoint_request import Draft, Route, refused_fields

if TYPE_CHECKING:
    from openai import AsyncOpenAI


@dataclass(slots=True)
class Learned:
    """What a back end has found out about its server, kept from one batch of calls to the next."""

    # how the server's echo lies against its tokens; None before it was tested
    shift: int | None = None
    is_reached: bool = False  # it answered a request in any way
    has_answered: bool = False  # it answered one otherwise than with an error of its own
    # first questions by the reason for which they were refused (see ``reason_of``)
    refused: dict[str, set[str]] = field(default_factory=dict)
    # reasons that lie in the questions, not in every request
    excused: set[str] = field(default_factory=set)
    has_split: bool = False  # a choice's options began with one token, and that was said
    # by optional field of a request, how many of its values the server refused
    lacks: dict[str, int] = field(default_factory=dict)
    tokens: VerdictTokens | None = None  # knows the verdicts' tokens; None before any was looked up


# A server that reports no log-probabilities twice is likely to have none.
MOST_IN_ROW = {"no_logprobs": 2}
UNREACHED = ("connection", "timeout")
MOST_SAID = 5  # different reasons whose sentence is shown
REFUSED_ALIKE = 3  # questions refused for one reason before it is asked whether all would be
HARMLESS = {"user": "Which number is larger, 1 or 2?", "assistant": "The larger one is"}


@dataclass(frozen=True)
class Retries:
    """When and how often a request is repeated.

    Attributes:
        max_retries: Repetitions after the first request, at least 0.
        timeout: Longest wait for a whole answer in seconds, above 0.
        first_wait: Wait before the first repetition in seconds; it doubles every time, and a random
            half of it is left out so that clients do not come back together.
        longest_wait: Longest such wait, and longest wait that a server may ask for (Retry-After);
            where it asks for more, the request fails.
    """

    max_retries: int = 6
    timeout: float = 120.0
    first_wait: float = 0.5
    longest_wait: float = 60.0

    def __post_init__(self) -> None:
        if self.max_retries < 0 or self.timeout <= 0 or min(self.first_wait, self.longest_wait) < 0:
            raise ValueError(
                "expected max_retries and waits of at least 0 and timeout above 0 seconds, got "
                f"max_retries={self.max_retries}, timeout={self.timeout}, "
                f"first_wait={self.first_wait}, longest_wait={self.longest_wait}"
            )


class Sent(NamedTuple):
    """What came of a request: a completion, or the failure of the last attempt."""

    completion: Completion | None
    failure: str | None
    attempts: int


class _Failed(NamedTuple):
    kind: str
    again: bool
    wait: float = 0.0  # seconds the server asks for
    sentence: str = ""  # what the server, or the system, says
    status: int = 0  # of a request that the server refuses, for whatever reason
    text: str = ""  # all that it says then


class Sender:
    """Sends requests through one client; a server's wish to be left alone holds for all of them.

    Attributes:
        last: What the server or the system said about the last attempt that failed.

    Args:
        client: Client of the ``openai`` package, its own retries switched off.
        retries: When to repeat.
        api_key_env: Environment variable that the key came from, for messages.
        learned: What is known about the server; added to.
        seed: Seeds the random part of waits, which changes no reply.
    """

    def __init__(
        self,
        client: AsyncOpenAI,
        retries: Retries,
        api_key_env: str = "OPENAI_API_KEY",
        learned: Learned | None = None,
        seed: int = 0,
    ) -> None:
        self.client = client
        self.retries = retries
        self.api_key_env = api_key_env
        self.last = ""
        self._random = random.Random(seed)
        self._quiet_until = 0.0
        self._openai: Any = openai_package()
        self.learned = learned or Learned()
        self._testing = asyncio.Lock()
        self._stop: EndpointError | None = None

    def silent(self, failed: int) -> str:
        """Say that the server gave no answer to so many calls, and what to do."""
        if not self.learned.is_reached:
            return unreachable(self.client.base_url, self.last)
        return failing(self.client.base_url, failed, self.last)

    async def send(self, made: Draft, logprobs: bool = False) -> Sent:
        """Send a request until it is answered or repeating it will not help.

        Args:
            made: The request; an optional field that is refused is left out, and so are later ones.
            logprobs: Whether an answer without log-probabilities is a failure.

        Raises:
            EndpointError: Address, key, model, account or every request are refused.
        """
        attempt, in_row, last = 0, 0, ""
        route, request = made.route, made.body
        while True:
            attempt += 1
            await self._wait_for_quiet()
            found = await self._once(route, request, logprobs)
            self.learned.is_reached |= isinstance(found, Completion) or found.kind not in UNREACHED
            if isinstance(found, Completion):
                return Sent(found, None, attempt)
            self.last = found.sentence or self.last
            if found.status and (rest := self._without_refused(made, found)):
                made, request = rest, rest.body
                continue
            if found.status:
                await self._consider(route, request, found)
            in_row, last = (in_row + 1 if found.kind == last else 1), found.kind
            is_last = attempt > self.retries.max_retries or in_row >= MOST_IN_ROW.get(
                last, attempt + 1
            )
            if not found.again or is_last or found.wait > self.retries.longest_wait:
                return Sent(None, found.kind, attempt)
            await self._back_off(attempt, found.wait)

    def _without_refused(self, made: Draft, failed: _Failed) -> Draft | None:
        names = refused_fields(failed.sentence, failed.text, made.optional)
        if not names:
            return None
        extra = made.body.get("extra_body", {})
        for name in names:
            known = self.learned.lacks
            if made.without(known).body["extra_body"].get(name) == extra.get(name):
                known[name] = known.get(name, 0) + 1
                if name not in made.without(known).optional:
                    url, sentence = self.client.base_url, failed.sentence
                    warnings.warn(without_field(url, name, sentence), stacklevel=2)
        return made.without(self.learned.lacks)

    async def _once(
        self, route: Route, request: dict[str, Any], logprobs: bool
    ) -> Completion | _Failed:
        api = self.client.completions if route == "completions" else self.client.chat.completions
        create: Any = api.with_raw_response.create
        try:
            # The client's timeout counts anew with every byte; this one does not.
            raw = await asyncio.wait_for(create(**request), self.retries.timeout)
            self._refuse_redirect(raw.http_response)
            completion = parse_body(raw.text)
        except BodyError as error:
            if error.kind == "streamed":
                raise EndpointError(
                    f"{self.client.base_url} streams its answers though none was asked to be; streams "
                    f"are not read. Switch that off at the server or take another route, {AGAIN}"
                ) from error
            return _Failed(error.kind, again=True, sentence=str(error))
        except ReportedError as error:
            headers = raw.http_response.headers
            return self._status(error.status, error.sentence, error.sentence, headers, request)
        except (TimeoutError, self._openai.APITimeoutError):
            return _Failed("timeout", True, sentence=f"no answer in {self.retries.timeout:g} s")
        except self._openai.APIStatusError as error:
            self._refuse_redirect(error.response)
            text = error.response.text
            said = sentence_of(text)
            return self._status(error.status_code, said, text, error.response.headers, request)
        except self._openai.APIConnectionError as error:
            return _Failed("connection", again=True, sentence=str(error.__cause__ or error))
        if completion.refused:
            return _Failed("refused", again=False)
        if logprobs and not completion.tokens and not any(completion.tables):
            return _Failed(
                "no_logprobs", again=True, sentence="an answer without log-probabilities"
            )
        return completion

    def _status(
        self, status: int, sentence: str, text: str, headers: Any, request: dict[str, Any]
    ) -> _Failed:
        """Tell what an HTTP status means. ``EndpointError``: every call would be refused."""
        meaning = meaning_of(status, text)
        url = self.client.base_url
        if meaning == "useless":
            model = str(request["model"])
            raise EndpointError(useless(url, status, sentence, self.api_key_env, model))
        if meaning in ("too_long", "refused"):
            return _Failed(meaning, again=False, sentence=sentence)
        said = f"HTTP {status}: {sentence}"
        if meaning == "again":
            return _Failed(f"http_{status}", True, wanted_wait(headers), said)
        return _Failed(f"http_{status}", False, sentence=said, status=status, text=text)

    def _refuse_redirect(self, response: Any) -> None:
        """Refuse an answer to a question that a redirect has lost: most turn a POST into a GET."""
        if response.history and response.request.method != "POST":
            raise EndpointError(
                f"{self.client.base_url} sends requests on to {response.url} and loses what they ask. "
                f"Set base_url to the address it leads to, {AGAIN}"
            )

    async def _consider(self, route: Route, request: dict[str, Any], failed: _Failed) -> None:
        """Find out whether a refusal is about the question or about every request, and say so.

        After a few questions that are refused for the same reason a harmless one is sent with the
        same settings.

        Raises:
            EndpointError: It is refused in the same way.
        """
        sentence, url = failed.sentence, self.client.base_url
        reason = reason_of(sentence)
        refused, excused = self.learned.refused, self.learned.excused
        if reason not in refused and len(refused) < MOST_SAID:
            warnings.warn(f"{url} refuses a request: {sentence}", stacklevel=2)
        asked = refused.setdefault(reason, set())
        if len(asked) < REFUSED_ALIKE:
            asked.add(str(request.get("messages", request.get("prompt"))))
        async with self._testing:
            if self._stop is not None:
                raise self._stop
            if reason in excused or len(asked) < REFUSED_ALIKE:
                return
            found = await self._once(route, harmless(request), logprobs=False)
            if isinstance(found, Completion):
                excused.add(reason)
            elif reason_of(found.sentence) == reason:
                plain = sentence.removeprefix(f"HTTP {failed.status}: ")
                self._stop = EndpointError(refuses_all(url, failed.status, plain))
                raise self._stop

    async def _wait_for_quiet(self) -> None:
        while (left := self._quiet_until - time.monotonic()) > 0:
            await asyncio.sleep(left)

    async def _back_off(self, attempt: int, wanted: float) -> None:
        if wanted:
            self._quiet_until = max(self._quiet_until, time.monotonic() + wanted)
        wait = min(self.retries.first_wait * 2 ** (attempt - 1), self.retries.longest_wait)
        await asyncio.sleep(wait * (1 - self._random.random() / 2))


def harmless(request: dict[str, Any]) -> dict[str, Any]:
    """Return a request with the same settings that asks nothing a server could object to."""
    if "prompt" in request:
        return request | {"prompt": HARMLESS["user"]}
    turns = [{**turn, "content": HARMLESS[turn["role"]]} for turn in request["messages"]]
    return request | {"messages": turns}


def wanted_wait(headers: Any) -> float:
    """Seconds a server asks to wait (Retry-After, as a number or a date); 0 where it does not say."""
    value = headers.get("retry-after")
    if value is None:
        return 0.0
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return 0.0


def openai_package() -> Any:
    """Import the client on first use. ``ImportError``: it is not installed."""
    try:
        return importlib.import_module("openai")
    except ImportError as error:
        raise ImportError(
            "expected the package openai for an EndpointBackend, found none; run: "
            "pip install 'rlaif_pl[endpoint]'"
        ) from error
