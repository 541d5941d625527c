"""One call of ours in terms of a server's requests, and its answers back into a reply."""

from __future__ import annotations

import asyncio
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlaif_pl.data.failures import is_of_server
from rlaif_pl.labeling.backends.endpoint_body import Completion
from rlaif_pl.labeling.backends.endpoint_choose import choose
from rlaif_pl.labeling.backends.endpoint_echo import (
    KNOWN_TEXT,
    EchoError,
    find_shift,
    starts_of,
    target_logprobs,
)
from rlaif_pl.labeling.backends.endpoint_errors import EndpointError, Table, unlikely
from rlaif_pl.labeling.backends.endpoint_http import Learned, Route, Sender
from rlaif_pl.labeling.calls import (
    Call,
    ChoiceRequest,
    GenerateRequest,
    LoglikelihoodRequest,
    Question,
    Response,
)
from rlaif_pl.labeling.guard import MIN_OPTION_MASS, off_option_mass
from rlaif_pl.labeling.prompting.thoughts import UNCLOSED
from rlaif_pl.labeling.usage.spending import Price

Api = Literal["auto", "completions", "chat"]
ChatOpening = Literal["user", "assistant"]
MaxTokensField = Literal["max_tokens", "max_completion_tokens"]
UNLIKELY_IN_ROW = 2  # both orders of a pair
SEEDS = 2**31 - 1  # servers take seeds below this
SAMPLE_STRIDE = 1_000_003  # prime, so that seeds of samples of neighboring seeds differ


@dataclass(frozen=True, slots=True)
class Settings:
    """How to talk to one server; see ``EndpointBackend``."""

    model: str
    api: Api
    top_logprobs: int
    chat_assistant_prefix: ChatOpening
    supports_top_k: bool
    supports_temperature: bool
    max_tokens_field: MaxTokensField
    echo_start: str
    extra_body: Mapping[str, Any]
    price: Price | None


class Tally:
    """What the requests of one call took."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.read = 0
        self.written = 0
        self.attempts = 0
        self.failure: str | None = None

    def reply(self, price: Price | None, **fields: Any) -> Response:
        """Make a reply of it; without a failure of its own it has that of the last request."""
        return Response(
            read=self.read,
            written=self.written,
            cost_usd=0.0 if price is None else price.of(self.read, self.written),
            seconds=time.monotonic() - self.started,
            attempts=max(self.attempts, 1),
            **{"failure": self.failure, **fields},
        )


class Caller:
    """Answers calls one at a time; several may be under way at once.

    Args:
        sender: Sends requests.
        settings: How to talk to the server.
    """

    def __init__(self, sender: Sender, settings: Settings) -> None:
        self.sender = sender
        self.settings = settings
        self.learned: Learned = sender.learned
        self._testing = asyncio.Lock()

    async def answer(self, call: Call) -> Response:
        """Answer one call; failures come back in the reply.

        Raises:
            EndpointError: The server cannot be used, or not for this kind of call.
        """
        if isinstance(call, ChoiceRequest):
            return await self._choose(call)
        if isinstance(call, GenerateRequest):
            return await self._generate(call)
        return await self._score(call)

    async def _choose(self, call: ChoiceRequest) -> Response:
        """Read the options off the likeliest tokens."""
        tally, is_chat = Tally(), self._is_chat(call.question)

        first: Table = ()

        async def look_up(beginning: str) -> Table | None:
            nonlocal first
            if beginning and is_chat and self.settings.chat_assistant_prefix == "user":
                return None  # the server cannot be made to go on from there
            done = await self._ask(tally, call.question, beginning, {"max_tokens": 1})
            table = None if done is None else done.tables[0] if done.tables else ()
            first = first or table or ()
            if done is not None and done.only_thoughts:
                tally.failure = UNCLOSED  # the table is that of a thought's first token
                return None
            return table

        logprobs = await choose(call.options, look_up, ignore_space=is_chat)
        if first:
            self._watch_mass(call, () if logprobs is None else logprobs, first)
        if logprobs is None:
            return tally.reply(self.settings.price)
        return tally.reply(self.settings.price, logprobs=logprobs, failure=None)

    def _watch_mass(
        self, call: ChoiceRequest, logprobs: Sequence[float | None], table: Table
    ) -> None:
        """Warn where the server writes something else than an option from the first choice on.

        So does a server (or a proxy before it) that drops the flags for going on with a begun
        answer, and one whose model begins to think.
        """
        if self.learned.unlikely is None:
            return
        if 1.0 - off_option_mass(logprobs) >= MIN_OPTION_MASS:
            self.learned.unlikely = None
            return
        self.learned.unlikely += 1
        if self.learned.unlikely == UNLIKELY_IN_ROW:
            url = self.sender.client.base_url
            goes_on = (
                self._is_chat(call.question) and self.settings.chat_assistant_prefix == "assistant"
            )
            warnings.warn(unlikely(url, call.options, table, goes_on), stacklevel=2)

    async def _generate(self, call: GenerateRequest) -> Response:
        """Let the server write."""
        decoding, tally = call.decoding, Tally()
        options: dict[str, Any] = {
            "max_tokens": decoding.max_tokens,
            "temperature": decoding.temperature,
        }
        if decoding.stop:
            options["stop"] = list(decoding.stop)
        if decoding.temperature > 0:
            options["seed"] = (decoding.seed * SAMPLE_STRIDE + call.sample) % SEEDS
            if decoding.top_k:
                options["extra_body"] = {"top_k": self._top_k(decoding.top_k)}
        done = await self._ask(tally, call.question, "", options, logprobs=False)
        if done is None:
            return tally.reply(self.settings.price)
        return tally.reply(
            self.settings.price,
            text=done.text,
            finished=done.finish != "length",
            failure=None if done.text.strip() else UNCLOSED if done.only_thoughts else "empty",
        )

    async def _score(self, call: LoglikelihoodRequest) -> Response:
        """Read the target's log-probabilities off the echoed prompt."""
        if self.settings.api == "chat":
            raise EndpointError(
                "expected api: completions for log-probabilities of given text, got chat; a chat "
                "server does not report them: use a LocalBackend"
            )
        tally = Tally()
        async with self._testing:
            if self.learned.shift is None:
                self.learned.shift = await self._test_echo(tally)
            shift = self.learned.shift
        if not call.target:
            return tally.reply(self.settings.price, failure="empty")
        found = await self._echo(tally, call.context + call.target)
        if found is None:
            return tally.reply(self.settings.price)
        try:
            logprobs = target_logprobs(found, call.context, call.target, shift)
        except EchoError:
            return tally.reply(self.settings.price, failure="unaligned")
        if None in logprobs:
            return tally.reply(self.settings.price, failure="no_logprobs")
        if not all(math.isfinite(value) for value in logprobs if value is not None):
            return tally.reply(self.settings.price, failure="nonfinite")
        return tally.reply(self.settings.price, logprobs=tuple(logprobs), failure=None)

    async def _test_echo(self, tally: Tally) -> int:
        """Compare the echo of a known text with plain calls on its beginnings.

        Raises:
            EndpointError: The server has no echo, or a wrong one.
        """
        found = await self._echo(tally, KNOWN_TEXT)
        if found is None and is_of_server(tally.failure):
            raise EndpointError(self.sender.silent(1))
        if found is None:
            raise EndpointError(
                f"expected the server to echo log-probabilities of a prompt, got {tally.failure}; not "
                "every server has this (llama-cpp-python needs logits_all): use a LocalBackend"
            )
        try:
            starts = starts_of(found.tokens, KNOWN_TEXT)
            tables: list[Table] = []
            for start in starts:
                beginning = Question(self.settings.echo_start + KNOWN_TEXT[:start])
                done = start and await self._ask(tally, beginning, "", {"max_tokens": 1})
                tables.append(done.tables[0] if done and done.tables else ())
            return find_shift(found.tokens, found.logprobs, tables)
        except EchoError as error:
            raise EndpointError(str(error)) from error

    async def _echo(self, tally: Tally, text: str) -> Completion | None:
        """Ask for a text's own log-probabilities; one token is written, since 0 is no limit to some."""
        options = {"max_tokens": 1, "echo": True, "logprobs": 1}
        return await self._ask(tally, Question(self.settings.echo_start + text), "", options)

    def _top_k(self, top_k: int) -> int:
        if not self.settings.supports_top_k:
            raise EndpointError(
                f"expected a decoding without top_k, got top_k={top_k} for a server that has none "
                "(supports_top_k is false); set top_k to 0"
            )
        return top_k

    def _is_chat(self, question: Question) -> bool:
        """Tell which route a question takes."""
        if question.chat and self.settings.api == "completions":
            raise EndpointError(
                "expected plain questions for api: completions, got one for a chat template, which "
                "only the server's chat route applies; set api to auto or chat, or chat to false"
            )
        return question.chat or self.settings.api == "chat"

    async def _ask(
        self,
        tally: Tally,
        question: Question,
        beginning: str,
        options: dict[str, Any],
        logprobs: bool = True,
    ) -> Completion | None:
        """Send one request and count what it took; None where it failed, with the kind in ``tally``."""
        route: Route = "chat" if self._is_chat(question) else "completions"
        extra = dict(self.settings.extra_body) | options.get("extra_body", {})
        request: dict[str, Any] = {"model": self.settings.model, "temperature": 1.0}
        assistant_prefix = question.assistant_prefix + beginning
        if route == "chat":
            request["messages"], flags = messages(
                question.text, assistant_prefix, self.settings.chat_assistant_prefix
            )
            extra |= flags
            limit = options.get("max_tokens", 1)
            options = {name: value for name, value in options.items() if name != "max_tokens"}
            options[self.settings.max_tokens_field] = limit
            if logprobs:
                request |= {"logprobs": True, "top_logprobs": self.settings.top_logprobs}
        else:
            request["prompt"] = question.text + assistant_prefix
            if logprobs:
                request["logprobs"] = self.settings.top_logprobs
        request |= options
        if not self.settings.supports_temperature:
            del request["temperature"]
        if extra:
            request["extra_body"] = extra
        sent = await self.sender.send(route, request, logprobs)
        tally.attempts += sent.attempts
        tally.failure = sent.failure
        if sent.completion is not None:
            tally.read += sent.completion.read
            tally.written += sent.completion.written
        return sent.completion


def messages(
    text: str, assistant_prefix: str, place: ChatOpening
) -> tuple[list[dict[str, str]], dict[str, bool]]:
    """Return the messages of a chat request and the flags that make a server go on from the last.

    Args:
        text: The user's message.
        assistant_prefix: What the answer begins with.
        place: ``user`` puts it at the end of the user's message, ``assistant`` into a message that
            the server is to go on with (vLLM and SGLang by these flags, others by themselves).
    """
    if not assistant_prefix:
        return [{"role": "user", "content": text}], {}
    if place == "user":
        return [{"role": "user", "content": f"{text.rstrip()}\n\n{assistant_prefix}"}], {}
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": assistant_prefix}]
    return turns, {"continue_final_message": True, "add_generation_prompt": False}
