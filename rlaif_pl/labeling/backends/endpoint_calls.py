"""One call of ours in terms of a server's requests, and its answers back into a reply."""

from __future__ import annotations

import asyncio
import math
import time
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

from rlaif_pl.data.failures import is_of_server
from rlaif_pl.labeling.backends.endpoint_body import Completion
from rlaif_pl.labeling.backends.endpoint_choose import VerdictTokens, choose, split_by
from rlaif_pl.labeling.backends.endpoint_echo import (
    KNOWN_TEXT,
    EchoError,
    find_shift,
    starts_of,
    target_logprobs,
)
from rlaif_pl.labeling.backends.endpoint_errors import EndpointError, Table, split_option
from rlaif_pl.labeling.backends.endpoint_http import Learned, Sender
from rlaif_pl.labeling.backends.endpoint_request import (
    STRUCTURED,
    Route,
    Settings,
    Wanted,
    draft,
    is_strict,
)
from rlaif_pl.labeling.calls import (
    Call,
    ChoiceRequest,
    Decoding,
    GenerateRequest,
    LoglikelihoodRequest,
    Question,
    Response,
    ThinkRequest,
)
from rlaif_pl.labeling.thinking import UNCLOSED, thoughts_of
from rlaif_pl.labeling.usage.spending import Price
from rlaif_pl.models.chat_format import THOUGHTS

SPLIT = "split_option"
"""Failure of a choice whose options begin with one token, after which the server cannot be asked."""
SEEDS = 2**31 - 1  # servers take seeds below this, vLLM below 2**63
ANSWER_TOKENS = 32  # beyond a budget of thoughts
SAMPLE_STRIDE = 1_000_003  # prime, so that seeds of samples of neighboring seeds differ


@dataclass
class Tally:
    """What the requests of one call took."""

    price: Price | None
    started: float = field(default_factory=time.monotonic)
    read: int = 0
    written: int = 0
    attempts: int = 0
    failure: str | None = None

    def reply(self, **fields: Any) -> Response:
        """Make a reply of it; without a failure of its own it has that of the last request."""
        return Response(
            read=self.read,
            written=self.written,
            cost_usd=0.0 if self.price is None else self.price.of(self.read, self.written),
            seconds=time.monotonic() - self.started,
            attempts=max(self.attempts, 1),
            **{"failure": self.failure, **fields},
        )


class Caller:
    """Answers calls one at a time; several may be under way at once."""

    def __init__(self, sender: Sender, settings: Settings) -> None:
        self.sender = sender
        self.settings = settings
        self.learned: Learned = sender.learned
        self.tokens = sender.learned.tokens or VerdictTokens(
            settings.model, settings.server.supports_logprob_token_ids
        )
        sender.learned.tokens = self.tokens
        self._testing = asyncio.Lock()
        self._looking = asyncio.Lock()

    async def answer(self, call: Call) -> Response:
        """Answer one call; failures come in the reply. ``EndpointError``: the server is of no use."""
        if isinstance(call, ChoiceRequest):
            return await self._choose(call)
        if isinstance(call, GenerateRequest):
            return await self._generate(call)
        if isinstance(call, ThinkRequest):
            return await self._think(call)
        return await self._score(call)

    async def _choose(self, call: ChoiceRequest) -> Response:
        extra = sorted(self.settings.extra_body)
        if structured := [n for n in extra if n in STRUCTURED or n.startswith("guided_")]:
            raise EndpointError(
                f"expected no {' or '.join(structured)} in the back end's extra_body, which would hide "
                "how likely all other answers are from a label by probabilities; leave it out"
            )
        tally, is_chat = Tally(self.settings.price), self._is_chat(call.question)
        goes_on = not is_chat or self.settings.chat_assistant_prefix == "assistant"
        goes_on |= call.question.thoughts is not None
        first: Table = ()
        broken: str | None = None  # why a look-up failed

        async def look_up(beginning: str) -> Table | None:
            nonlocal first, broken
            done = await self._table(tally, call, beginning, goes_on)
            table = None if done is None else done.tables[0] if done.tables else ()
            first = first or table or ()
            broken = tally.failure if done is None else broken
            if done is not None and done.only_thoughts and call.question.thoughts is None:
                tally.failure = UNCLOSED  # the table is that of a thought's first token
                return None
            return table

        logprobs = await choose(call.options, look_up, ignore_space=is_chat, can_follow=goes_on)
        if logprobs is None:
            return tally.reply()
        token = max(first, key=lambda row: row[1])[0] if first else ""
        failure = broken if None in logprobs else None
        if not goes_on and (begun := split_by(call.options, logprobs, first)) is not None:
            failure = SPLIT
            self._warn_of_split(call, begun)
        return tally.reply(logprobs=logprobs, text=token, failure=failure)

    def _warn_of_split(self, call: ChoiceRequest, token: str) -> None:
        if not self.learned.has_split:
            self.learned.has_split = True
            text = split_option(self.sender.client.base_url, call.options, token)
            warnings.warn(text, stacklevel=2)

    async def _table(
        self, tally: Tally, call: ChoiceRequest, beginning: str, goes_on: bool
    ) -> Completion | None:
        """Ask for what may follow: the options' own tokens where the server can, else the likeliest."""
        question, is_chat = call.question, self._is_chat(call.question)
        rests = [o[len(beginning) :] for o in call.options if o.startswith(beginning)]
        rests = [rest for rest in rests if rest]
        if is_chat and not beginning:  # with and without a space it is the same answer
            rests = [space + rest.lstrip() for rest in rests for space in ("", " ")]
        start = question.assistant_prefix + beginning if goes_on else ""
        start = start[start.rfind("\n") + 1 :]  # the same for all calls, also behind rationales
        client = self.sender.client
        if (start or is_chat) and not is_strict(client.base_url):  # other plain text ends in data
            async with self._looking:
                ids = await self.tokens.after(client, start, rests)
            if ids is not None:
                by_id = {"logprob_token_ids": list(ids)}
                done = await self._ask(tally, Wanted(question, beginning, top=1, optional=by_id))
                if done is None or (done.tables and self.tokens.check(done.tables[0], ids, rests)):
                    return done
        return await self._ask(
            tally, Wanted(question, beginning, top=self.settings.server.top_logprobs)
        )

    async def _generate(self, call: GenerateRequest) -> Response:
        tally = Tally(self.settings.price)
        done = await self._ask(tally, self._drawn(call.question, call.decoding, call.sample))
        if done is None:
            return tally.reply()
        return tally.reply(
            text=done.text,
            finished=done.finish != "length",
            failure=None if done.text.strip() else UNCLOSED if done.only_thoughts else "empty",
        )

    async def _think(self, call: ThinkRequest) -> Response:
        if not self._is_chat(call.question):
            raise EndpointError(
                "expected chat_template: true for a model that thinks first, got a plain question"
            )
        tally, decoding = Tally(self.settings.price), call.decoding
        bare = replace(call.question, assistant_prefix="")  # it follows the thoughts
        wanted = self._drawn(bare, decoding, call.sample)
        wanted.limit += ANSWER_TOKENS  # so that a server which holds to the budget gets to the end
        own = self.settings.extra_body.get("chat_template_kwargs", {})
        wanted.body.setdefault("extra_body", {})["chat_template_kwargs"] = {**own, **THOUGHTS}
        wanted.optional["thinking_token_budget"] = decoding.max_tokens
        done = await self._ask(tally, wanted)
        if done is None:
            return tally.reply()
        thoughts, is_closed = thoughts_of(done.text, done.thoughts, done.finish == "length")
        return tally.reply(
            text=thoughts, finished=is_closed, failure=None if is_closed else UNCLOSED
        )

    def _drawn(self, question: Question, decoding: Decoding, sample: int) -> Wanted:
        wanted = Wanted(question, limit=decoding.max_tokens, temperature=decoding.temperature)
        if decoding.stop:
            wanted.body["stop"] = list(decoding.stop)
        if decoding.temperature > 0:
            seed = (decoding.seed * SAMPLE_STRIDE + sample) % SEEDS
            if self.settings.server.supports_seed:
                wanted.body["seed"] = seed
            elif self.settings.server.supports_seed is None:
                wanted.optional["seed"] = seed
            if decoding.top_k and not self.settings.server.supports_top_k:
                raise EndpointError(
                    f"expected a decoding without top_k, got top_k={decoding.top_k} for a server that "
                    "has none (server.supports_top_k is false); set top_k to 0"
                )
            if decoding.top_k:
                wanted.body["extra_body"] = {"top_k": decoding.top_k}
        return wanted

    async def _score(self, call: LoglikelihoodRequest) -> Response:
        if self.settings.api == "chat":
            raise EndpointError(
                "expected api: completions for log-probabilities of given text, got chat; a chat "
                "server does not report them: use a LocalBackend"
            )
        tally = Tally(self.settings.price)
        async with self._testing:
            if self.learned.shift is None:
                self.learned.shift = await self._test_echo(tally)
            shift = self.learned.shift
        if not call.target:
            return tally.reply(failure="empty")
        found = await self._echo(tally, call.context + call.target)
        if found is None:
            return tally.reply()
        try:
            logprobs = target_logprobs(found, call.context, call.target, shift)
        except EchoError:
            return tally.reply(failure="unaligned")
        if None in logprobs:
            return tally.reply(failure="no_logprobs")
        if not all(math.isfinite(value) for value in logprobs if value is not None):
            return tally.reply(failure="nonfinite")
        return tally.reply(logprobs=tuple(logprobs), failure=None)

    async def _test_echo(self, tally: Tally) -> int:
        """Compare an echo with plain calls. ``EndpointError``: the server has none, or a wrong one."""
        found = await self._echo(tally, KNOWN_TEXT)
        longer = found and await self._echo(tally, f"{KNOWN_TEXT} {KNOWN_TEXT}")
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
                beginning = Question(self.settings.server.echo_start + KNOWN_TEXT[:start])
                done = start and await self._ask(
                    tally, Wanted(beginning, top=self.settings.server.top_logprobs)
                )
                tables.append(done.tables[0] if done and done.tables else ())
            return find_shift(found, tables, longer)
        except EchoError as error:
            raise EndpointError(str(error)) from error

    async def _echo(self, tally: Tally, text: str) -> Completion | None:
        """Ask for a text's own log-probabilities; one token is written, since 0 is no limit to some."""
        whole = Question(self.settings.server.echo_start + text)
        return await self._ask(tally, Wanted(whole, top=1, body={"echo": True}))

    def _is_chat(self, question: Question) -> bool:
        if question.chat and self.settings.api == "completions":
            raise EndpointError(
                "expected plain questions for api: completions, got one for a chat template, which "
                "only the server's chat route applies; set api to auto or chat, or chat to false"
            )
        return question.chat or self.settings.api == "chat"

    async def _ask(self, tally: Tally, wanted: Wanted) -> Completion | None:
        """Send one request and count what it took; None where it failed, with the kind in ``tally``."""
        route: Route = "chat" if self._is_chat(wanted.question) else "completions"
        sender = self.sender
        made = draft(wanted, route, self.settings, sender.client.base_url, self.learned.lacks)
        sent = await sender.send(made, wanted.top is not None)
        tally.attempts += sent.attempts
        tally.failure = sent.failure
        if sent.completion is not None:
            tally.read += sent.completion.read
            tally.written += sent.completion.written
        return sent.completion
