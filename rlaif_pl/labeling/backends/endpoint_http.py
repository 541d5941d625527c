"""One request to a server, repeated as long as that may help, with every failure by its kind."""

from __future__ import annotations

import asyncio
import importlib
import random
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from rlaif_pl.errors import above, at_least
from rlaif_pl.labeling.backends import endpoint_errors as said
from rlaif_pl.labeling.backends.endpoint_body import Completion, parse_body
from rlaif_pl.labeling.backends.endpoint_choose import VerdictTokens
from rlaif_pl.labeling.backends.endpoint_errors import BodyError, EndpointError, reason_of
from rlaif_pl.labeling.backends.endpoint_request import Request, refused_fields
from rlaif_pl.labeling.calls import Response
from rlaif_pl.labeling.usage.spending import Price

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from rlaif_pl.labeling.backends.endpoint import EndpointBackend


@dataclass(slots=True)
class Learned:
    """What a back end has found out about its server, kept from one batch of calls to the next."""

    tokens: VerdictTokens
    shift: int | None = None  # how its echo lies against its tokens; None before it was tested
    is_reached: bool = False  # it answered a request in any way
    has_answered: bool = False  # it answered one otherwise than with an error of its own
    refused: dict[str, set[str]] = field(default_factory=dict)  # first questions by the reason
    excused: set[str] = field(default_factory=set)  # reasons that lie in the questions
    has_split: bool = False  # a choice's options began with one token, and that was said
    lacks: dict[str, int] = field(default_factory=dict)  # refused values of each optional field


MOST_MISSES = 2  # a server that reports no log-probabilities twice in a row is likely to have none
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
        waits = {"first_wait": self.first_wait, "longest_wait": self.longest_wait}
        at_least(0, max_retries=self.max_retries, **waits)
        above(0, timeout=self.timeout)


@dataclass
class Tally:
    """What the requests of one call took."""

    price: Price | None
    started: float = field(default_factory=time.monotonic)
    read: int = 0
    written: int = 0
    attempts: int = 0

    def reply(self, failure: str | None = None, **fields: Any) -> Response:
        """Make a reply of it."""
        return Response(
            read=self.read,
            written=self.written,
            cost_usd=0.0 if self.price is None else self.price.of(self.read, self.written),
            seconds=time.monotonic() - self.started,
            attempts=max(self.attempts, 1),
            failure=failure,
            **fields,
        )


@dataclass(eq=False)
class FailedRequest(Exception):  # noqa: N818 - mostly tried again
    """An attempt without an answer."""

    kind: str
    sentence: str = ""  # what the server, or the system, says
    again: bool = False
    wait: float = 0.0  # seconds the server asks for
    status: int = 0  # of a request that the server refuses, for whatever reason
    text: str = ""  # all that it says then


class Sender:
    """Sends requests through one client, whose own retries are off, and counts every attempt.

    A server's wish to be left alone holds for all of them.
    """

    def __init__(self, client: AsyncOpenAI, backend: EndpointBackend) -> None:
        self.client = client
        self.backend = backend
        self._last = ""  # said about the last attempt that failed
        self._random = random.Random(0)  # of waits, which change no reply
        self._quiet_until = 0.0
        self._considering, self._finding_out = asyncio.Lock(), asyncio.Lock()
        self._stop: EndpointError | None = None

    def silent(self, failed: int) -> EndpointError:
        """Return that the server gave no answer to so many calls, and what to do."""
        is_reached = self.backend.learned.is_reached
        return EndpointError(said.silent(self.backend.base_url, self._last, failed, is_reached))

    async def send(self, request: Request, tally: Tally) -> Completion:
        """Send a request until it is answered; optional fields that are refused are left out.

        Raises:
            FailedRequest: Repeating it would not help.
            EndpointError: Address, key, model, account or every request are refused.
        """
        learned, attempt, misses = self.backend.learned, 0, 0
        while True:
            attempt += 1
            tally.attempts += 1
            while (left := self._quiet_until - time.monotonic()) > 0:
                await asyncio.sleep(left)
            body, optional = request.body(self.backend)
            try:
                found = await self._once(body, request.top is not None)
            except FailedRequest as failed:
                learned.is_reached |= failed.kind not in UNREACHED
                self._last = failed.sentence or self._last
                if failed.status:
                    if names := refused_fields(failed.sentence, failed.text, optional):
                        self._leave_out(names, request, body, failed.sentence)
                        continue
                    await self._consider(body, failed)
                misses = misses + 1 if failed.kind == "no_logprobs" else 0
                if not failed.again or misses == MOST_MISSES:
                    raise
                await self._back_off(attempt, failed)
                continue
            learned.is_reached = True
            tally.read += found.read
            tally.written += found.written
            return found

    def _leave_out(
        self, names: list[str], request: Request, body: dict[str, Any], sentence: str
    ) -> None:
        """Go on to the next value of refused fields, if no other request did; say if none is left."""
        lacks = self.backend.learned.lacks
        for name in names:
            if request.body(self.backend)[0].get(name) == body[name]:
                lacks[name] = lacks.get(name, 0) + 1
                if name not in request.body(self.backend)[0]:
                    url = self.backend.base_url
                    warnings.warn(said.without_field(url, name, sentence), stacklevel=2)

    async def _back_off(self, attempt: int, failed: FailedRequest) -> None:
        """Wait before the next attempt, or raise where there is none."""
        retries = self.backend.retries
        if attempt > retries.max_retries or failed.wait > retries.longest_wait:
            raise failed
        if failed.wait:
            self._quiet_until = max(self._quiet_until, time.monotonic() + failed.wait)
        wait = min(retries.first_wait * 2 ** (attempt - 1), retries.longest_wait)
        await asyncio.sleep(wait * (1 - self._random.random() / 2))

    async def _once(self, body: dict[str, Any], logprobs: bool) -> Completion:
        openai, timeout, url = openai_package(), self.backend.retries.timeout, self.backend.base_url
        api = self.client.chat if "messages" in body else self.client
        create: Any = api.completions.with_raw_response.create
        required = {name: body[name] for name in ("model", "prompt", "messages") if name in body}
        try:
            # The client's timeout counts anew with every byte; this one does not.
            raw = await asyncio.wait_for(create(**required, extra_body=body), timeout)
            response = raw.http_response
        except openai.APIStatusError as error:
            response = error.response
        except (TimeoutError, openai.APITimeoutError) as error:
            raise FailedRequest("timeout", f"no answer in {timeout:g} s", again=True) from error
        except openai.APIConnectionError as error:
            raise FailedRequest("connection", str(error.__cause__ or error), again=True) from error
        if response.history and response.request.method != "POST":  # which loses the question
            raise EndpointError(
                f"{url} sends requests on to {response.url} and loses what they ask. Set base_url to "
                f"the address it leads to, {said.AGAIN}"
            )
        text, headers = response.text, response.headers
        if not response.is_success:
            raise self._refused(response.status_code, said.sentence_of(text), text, headers)
        try:
            completion = parse_body(text)
        except BodyError as error:
            if error.status:
                raise self._refused(error.status, str(error), str(error), headers) from error
            if error.kind == "streamed":
                raise EndpointError(
                    f"{url} streams its answers though none was asked to be; streams are not read. "
                    f"Switch that off at the server or take another route, {said.AGAIN}"
                ) from error
            raise FailedRequest(error.kind, str(error), again=True) from error
        if completion.refused:
            raise FailedRequest("refused")
        if logprobs and not completion.tokens and not any(completion.tables):
            raise FailedRequest("no_logprobs", "an answer without log-probabilities", again=True)
        return completion

    def _refused(self, status: int, sentence: str, text: str, headers: Any) -> FailedRequest:
        """Tell what an HTTP status means. ``EndpointError``: every call would be refused."""
        meaning, backend = said.meaning_of(status, text), self.backend
        if meaning == "useless":
            key, model = backend.api_key_env, backend.model
            raise EndpointError(said.useless(backend.base_url, status, sentence, key, model))
        if meaning in ("too_long", "refused"):
            return FailedRequest(meaning, sentence)
        kind, sentence = f"http_{status}", f"HTTP {status}: {sentence}"
        if meaning == "again":
            return FailedRequest(kind, sentence, again=True, wait=wanted_wait(headers))
        return FailedRequest(kind, sentence, status=status, text=text)

    async def _consider(self, body: dict[str, Any], failed: FailedRequest) -> None:
        """Say why; after a few questions refused for one reason, ask a harmless one in the same way.

        ``EndpointError``: it is refused in the same way.
        """
        sentence, url, learned = failed.sentence, self.backend.base_url, self.backend.learned
        reason = reason_of(sentence)
        if reason not in learned.refused and len(learned.refused) < MOST_SAID:
            warnings.warn(f"{url} refuses a request: {sentence}", stacklevel=2)
        asked = learned.refused.setdefault(reason, set())
        if len(asked) < REFUSED_ALIKE:
            asked.add(str(body.get("messages", body.get("prompt"))))
        async with self._considering:
            if self._stop is not None:
                raise self._stop
            if reason in learned.excused or len(asked) < REFUSED_ALIKE:
                return
            turns = [
                turn | {"content": HARMLESS[turn["role"]]} for turn in body.get("messages", [])
            ]
            harmless: dict[str, Any] = (
                {"messages": turns} if turns else {"prompt": HARMLESS["user"]}
            )
            try:
                await self._once(body | harmless, logprobs=False)
                learned.excused.add(reason)
            except FailedRequest as again:
                if reason_of(again.sentence) == reason:
                    plain = sentence.removeprefix(f"HTTP {failed.status}: ")
                    self._stop = EndpointError(said.refuses_all(url, failed.status, plain))
                    raise self._stop from again


def wanted_wait(headers: Any) -> float:
    """Seconds a server asks to wait (Retry-After, as a number or a date); 0 where it does not say."""
    value = headers.get("retry-after", "0")
    with suppress(ValueError):
        return max(float(value), 0.0)
    with suppress(ValueError):
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
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
