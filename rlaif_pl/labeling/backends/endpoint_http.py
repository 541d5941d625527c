"""One request to a server, repeated as long as that may help, with every failure by its kind."""

from __future__ import annotations

import asyncio
import importlib
import random
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rlaif_pl.labeling.backends.endpoint_body import BodyError, Completion, parse_body

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

Route = Literal["completions", "chat"]
HOPELESS = (401, 403, 404)  # a wrong key, address or model fails every call alike
TOO_LONG = ("context length", "context window", "context_length", "maximum context", "too long")
FILTERED = ("content_filter", "content_policy", "content management policy")
# A server that reports no log-probabilities twice is likely to have none.
MOST_IN_ROW = {"no_logprobs": 2}
QUOTA = ("insufficient_quota", "billing_hard_limit")


class EndpointError(ConnectionError):
    """The server cannot be used at all: every further call would fail in the same way."""


@dataclass(frozen=True, slots=True)
class Retries:
    """When and how often a request is repeated.

    Attributes:
        most: Repetitions after the first request, at least 0.
        timeout: Longest wait for a whole answer in seconds.
        first_wait: Wait before the first repetition in seconds; it doubles every time, and a random
            half of it is left out so that clients do not come back together.
        longest_wait: Longest such wait, and longest wait that a server may ask for (Retry-After);
            where it asks for more, the request fails.
    """

    most: int = 6
    timeout: float = 120.0
    first_wait: float = 0.5
    longest_wait: float = 60.0


class Sent(NamedTuple):
    """What came of a request: a completion, or the failure of the last attempt."""

    completion: Completion | None
    failure: str | None
    attempts: int


class _Failed(NamedTuple):
    """One attempt that failed."""

    kind: str
    again: bool
    wait: float = 0.0  # seconds the server asks for


class Sender:
    """Sends requests through one client; a server's wish to be left alone holds for all of them.

    Args:
        client: Client of the ``openai`` package, its own retries switched off.
        retries: When to repeat.
        seed: Seeds the random part of waits, which changes no reply.
    """

    def __init__(self, client: AsyncOpenAI, retries: Retries, seed: int = 0) -> None:
        self.client = client
        self.retries = retries
        self._random = random.Random(seed)
        self._quiet_until = 0.0
        self._openai: Any = openai_package()

    async def send(self, route: Route, request: dict[str, Any], logprobs: bool = False) -> Sent:
        """Send a request until it is answered or repeating it will not help.

        Args:
            route: Which of the server's two ways to complete text.
            request: Arguments of the client's ``create``.
            logprobs: Whether an answer without log-probabilities is a failure.

        Raises:
            EndpointError: Address, key, model or account are refused.
        """
        attempt, in_row, last = 0, 0, ""
        while True:
            attempt += 1
            await self._wait_for_quiet()
            found = await self._once(route, request, logprobs)
            if isinstance(found, Completion):
                return Sent(found, None, attempt)
            in_row, last = (in_row + 1 if found.kind == last else 1), found.kind
            is_last = attempt > self.retries.most or in_row >= MOST_IN_ROW.get(last, attempt + 1)
            if not found.again or is_last or found.wait > self.retries.longest_wait:
                return Sent(None, found.kind, attempt)
            await self._back_off(attempt, found.wait)

    async def _once(
        self, route: Route, request: dict[str, Any], logprobs: bool
    ) -> Completion | _Failed:
        """Send a request once."""
        api = self.client.completions if route == "completions" else self.client.chat.completions
        create: Any = api.with_raw_response.create
        try:
            # The client's timeout counts anew with every byte; this one does not.
            raw = await asyncio.wait_for(create(**request), self.retries.timeout)
            completion = parse_body(raw.text)
        except BodyError as error:
            return _Failed(error.kind, again=True)
        except (TimeoutError, self._openai.APITimeoutError):
            return _Failed("timeout", again=True)
        except self._openai.APIStatusError as error:
            return self._status(error)
        except self._openai.APIConnectionError:
            return _Failed("connection", again=True)
        if completion.refused:
            return _Failed("refused", again=False)
        if logprobs and not completion.tokens and not any(completion.tables):
            return _Failed("no_logprobs", again=True)
        return completion

    def _status(self, error: APIStatusError) -> _Failed:
        """Tell what an HTTP status means."""
        status, text = error.status_code, f"{error.message} {error.body}".lower()
        if status in HOPELESS or any(word in text for word in QUOTA):
            raise EndpointError(
                f"expected {self.client.base_url} to answer, got HTTP {status}: "
                f"{error.message[:200]}; check base_url, model and the key in api_key_env"
            ) from error
        if status == 413 or (status in (400, 422) and any(word in text for word in TOO_LONG)):
            return _Failed("too_long", again=False)
        if status in (400, 422) and any(word in text for word in FILTERED):
            return _Failed("refused", again=False)
        again = status in (408, 409, 429) or status >= 500
        return _Failed(f"http_{status}", again, wanted_wait(error.response.headers))

    async def _wait_for_quiet(self) -> None:
        """Wait as long as the server asked for, also if it told another call."""
        while (left := self._quiet_until - time.monotonic()) > 0:
            await asyncio.sleep(left)

    async def _back_off(self, attempt: int, wanted: float) -> None:
        """Wait before repeating a request."""
        if wanted:
            self._quiet_until = max(self._quiet_until, time.monotonic() + wanted)
        wait = min(self.retries.first_wait * 2 ** (attempt - 1), self.retries.longest_wait)
        await asyncio.sleep(wait * (1 - self._random.random() / 2))


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
    """Import the client on first use.

    Raises:
        ImportError: It is not installed.
    """
    try:
        return importlib.import_module("openai")
    except ImportError as error:
        raise ImportError(
            "expected the package openai for an EndpointBackend, found none; run: "
            "pip install 'rlaif_pl[endpoint]'"
        ) from error
