"""One call of ours in terms of a server's requests, and its answers back into a reply."""

from __future__ import annotations

import math
import warnings
from contextlib import suppress
from dataclasses import replace

from rlaif_pl.data.failures import is_of_server
from rlaif_pl.labeling.backends import endpoint_echo as echo
from rlaif_pl.labeling.backends.endpoint_body import Completion, Table
from rlaif_pl.labeling.backends.endpoint_choose import choose, split_by
from rlaif_pl.labeling.backends.endpoint_errors import EndpointError, split_option
from rlaif_pl.labeling.backends.endpoint_http import FailedRequest, Sender, Tally
from rlaif_pl.labeling.backends.endpoint_request import STRUCTURED, Request, is_chat, is_strict
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
from rlaif_pl.models.chat_format import THOUGHTS

SPLIT = "split_option"
"""Failure of a choice whose options begin with one token, after which the server cannot be asked."""
SEEDS = 2**31 - 1  # servers take seeds below this, vLLM below 2**63
ANSWER_TOKENS = 32  # beyond a budget of thoughts
SAMPLE_STRIDE = 1_000_003  # prime, so that seeds of samples of neighboring seeds differ


class Caller(Sender):
    """Answers calls one at a time; several may be under way at once."""

    async def answer(self, call: Call) -> Response:
        """Answer one call; failures come in the reply. ``EndpointError``: the server is of no use."""
        tally = Tally(self.backend.price)
        try:
            if isinstance(call, ChoiceRequest):
                return await self._choose(call, tally)
            if isinstance(call, GenerateRequest):
                return await self._generate(call, tally)
            if isinstance(call, ThinkRequest):
                return await self._think(call, tally)
            return await self._score(call, tally)
        except FailedRequest as failed:
            return tally.reply(failed.kind)

    async def _choose(self, call: ChoiceRequest, tally: Tally) -> Response:
        extra = sorted(self.backend.extra_body)
        if structured := [n for n in extra if n in STRUCTURED or n.startswith("guided_")]:
            raise EndpointError(
                f"expected no {' or '.join(structured)} in the back end's extra_body, which would hide "
                "how likely all other answers are from a label by probabilities; leave it out"
            )
        chats = is_chat(call.question, self.backend.api)
        goes_on = not chats or self.backend.chat_assistant_prefix == "assistant"
        goes_on |= call.question.thoughts is not None
        first: Table = ()
        broken: str | None = None  # why a look-up failed

        async def look_up(beginning: str) -> Table | None:
            nonlocal first, broken
            try:
                done = await self._table(tally, call, beginning, goes_on)
            except FailedRequest as failed:
                broken = failed.kind
                return None
            table = done.tables[0] if done.tables else ()
            first = first or table
            if done.only_thoughts and call.question.thoughts is None:
                broken = UNCLOSED  # the table is that of a thought's first token
                return None
            return table

        logprobs = await choose(call.options, look_up, ignore_space=chats, can_follow=goes_on)
        if logprobs is None:
            return tally.reply(broken)
        token = max(first, key=lambda row: row[1])[0] if first else ""
        failure = broken if None in logprobs else None
        if not goes_on and (begun := split_by(call.options, logprobs, first)) is not None:
            failure = SPLIT
            if not self.backend.learned.has_split:
                self.backend.learned.has_split = True
                url = self.backend.base_url
                warnings.warn(split_option(url, call.options, begun, failure), stacklevel=2)
        return tally.reply(failure, logprobs=logprobs, text=token)

    async def _table(
        self, tally: Tally, call: ChoiceRequest, beginning: str, goes_on: bool
    ) -> Completion:
        """Ask for what may follow: the options' own tokens where the server can, else the likeliest."""
        question, chats = call.question, is_chat(call.question, self.backend.api)
        rests = [o[len(beginning) :] for o in call.options if o.startswith(beginning)]
        rests = [rest for rest in rests if rest]
        if chats and not beginning:  # with and without a space it is the same answer
            rests = [space + rest.lstrip() for rest in rests for space in ("", " ")]
        start = question.assistant_prefix + beginning if goes_on else ""
        start = start[start.rfind("\n") + 1 :]  # the same for all calls, also behind rationales
        is_apart = bool(start) or chats  # other plain text ends in data
        if is_apart and not is_strict(self.backend.base_url):
            tokens = self.backend.learned.tokens
            async with self._finding_out:
                ids = await tokens.after(self.client, start, rests)
            if ids is not None:
                by_id = {"logprob_token_ids": list(ids)}
                done = await self.send(Request(question, beginning, top=1, optional=by_id), tally)
                if done.tables and tokens.check(done.tables[0], ids, rests):
                    return done
        top = self.backend.server.top_logprobs
        return await self.send(Request(question, beginning, top=top), tally)

    async def _generate(self, call: GenerateRequest, tally: Tally) -> Response:
        done = await self.send(self._drawn(call.question, call.decoding, call.sample), tally)
        failure = None if done.text.strip() else UNCLOSED if done.only_thoughts else "empty"
        return tally.reply(failure, text=done.text, finished=done.finish != "length")

    async def _think(self, call: ThinkRequest, tally: Tally) -> Response:
        if not is_chat(call.question, self.backend.api):
            raise EndpointError(
                "expected chat_template: true for a model that thinks first, got a plain question"
            )
        bare = replace(call.question, assistant_prefix="")  # it follows the thoughts
        request = self._drawn(bare, call.decoding, call.sample)
        request.limit += ANSWER_TOKENS  # so that a server which holds to the budget gets to the end
        own = self.backend.extra_body.get("chat_template_kwargs", {})
        request.forced["chat_template_kwargs"] = {**own, **THOUGHTS}
        request.optional["thinking_token_budget"] = call.decoding.max_tokens
        done = await self.send(request, tally)
        thoughts, is_closed = thoughts_of(done.text, done.thoughts, done.finish == "length")
        return tally.reply(None if is_closed else UNCLOSED, text=thoughts, finished=is_closed)

    def _drawn(self, question: Question, decoding: Decoding, sample: int) -> Request:
        request, server = Request(question, limit=decoding.max_tokens), self.backend.server
        request.temperature = decoding.temperature
        if decoding.stop:
            request.fields["stop"] = list(decoding.stop)
        if decoding.temperature > 0:
            seed = (decoding.seed * SAMPLE_STRIDE + sample) % SEEDS
            if server.supports_seed is not False:
                (request.fields if server.supports_seed else request.optional)["seed"] = seed
            if decoding.top_k and not server.supports_top_k:
                raise EndpointError(
                    f"expected a decoding without top_k, got top_k={decoding.top_k} for a server that "
                    "has none (server.supports_top_k is false); set top_k to 0"
                )
            if decoding.top_k:
                request.forced["top_k"] = decoding.top_k
        return request

    async def _score(self, call: LoglikelihoodRequest, tally: Tally) -> Response:
        if self.backend.api == "chat":
            raise EndpointError(
                "expected api: completions for log-probabilities of given text, got chat; a chat "
                "server does not report them: use a LocalBackend"
            )
        learned = self.backend.learned
        async with self._finding_out:
            if learned.shift is None:
                learned.shift = await self._test_echo(tally)
        if not call.target:
            return tally.reply("empty")
        found = await self._echo(tally, call.context + call.target)
        try:
            logprobs = echo.target_logprobs(found, call.context, call.target, learned.shift)
        except echo.EchoError:
            return tally.reply("unaligned")
        if None in logprobs:
            return tally.reply("no_logprobs")
        if not all(math.isfinite(value) for value in logprobs if value is not None):
            return tally.reply("nonfinite")
        return tally.reply(logprobs=tuple(logprobs))

    async def _test_echo(self, tally: Tally) -> int:
        """Compare an echo with plain calls. ``EndpointError``: the server has none, or a wrong one."""
        try:
            found = await self._echo(tally, echo.KNOWN_TEXT)
        except FailedRequest as failed:
            if is_of_server(failed.kind):
                raise self.silent(1) from failed
            raise EndpointError(
                f"expected the server to echo log-probabilities of a prompt, got {failed.kind}; not "
                "every server has this (llama-cpp-python needs logits_all): use a LocalBackend"
            ) from failed
        longer: Completion | None = None
        with suppress(FailedRequest):
            longer = await self._echo(tally, f"{echo.KNOWN_TEXT} {echo.KNOWN_TEXT}")
        tables: list[Table] = []
        for start in echo.starts_of(found.tokens, echo.KNOWN_TEXT):
            known = Question(self.backend.server.echo_start + echo.KNOWN_TEXT[:start])
            plain = Request(known, top=self.backend.server.top_logprobs)
            tables.append(())
            with suppress(FailedRequest):
                if start and (listed := (await self.send(plain, tally)).tables):
                    tables[-1] = listed[0]
        return echo.find_shift(found, tables, longer)

    async def _echo(self, tally: Tally, text: str) -> Completion:
        """Ask for a text's own log-probabilities; one token is written, since 0 is no limit to some."""
        whole = Question(self.backend.server.echo_start + text)
        return await self.send(Request(whole, top=1, fields={"echo": True}), tally)
