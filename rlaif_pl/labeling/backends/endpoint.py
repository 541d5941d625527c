"""A model behind any server that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp, OpenAI itself."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from rlaif_pl.data.failures import is_of_server, is_transient
from rlaif_pl.errors import at_least, one_of
from rlaif_pl.labeling.backends.endpoint_calls import Caller
from rlaif_pl.labeling.backends.endpoint_choose import VerdictTokens
from rlaif_pl.labeling.backends.endpoint_errors import EndpointError
from rlaif_pl.labeling.backends.endpoint_http import Learned, Retries, openai_package
from rlaif_pl.labeling.backends.endpoint_request import Api, ChatOpening, ServerFeatures
from rlaif_pl.labeling.calls import Call, Response
from rlaif_pl.labeling.usage.spending import Price, price_of

CHECK_SECONDS = 30.0  # longest wait for a server's list of models
LOST_AT = 2  # calls, all of a batch, that met a broken connection
GIVE_UP_AFTER = 20  # calls that failed in a row, each after all its retries


class EndpointBackend:
    """Asks a server, several calls at a time; every reply is handed on as it arrives.

    Requests are repeated after 429, 5xx, timeouts, broken connections and broken bodies (an error in
    a body of status 200 counts as its own status). A wrong address, key or model, an account without
    credit, a setting that every request is refused for, or a server that fails call after call stops
    the job with the server's sentence. Other failures are reported by kind: ``timeout``,
    ``connection``, ``http_500``, ..., ``malformed_reply``, ``no_logprobs``, ``too_long``, ``refused``,
    ``empty``, ``unclosed_thought``, ``unaligned`` (a token holds the end of the context, too).

    Args:
        base_url: Address up to and with the version (``http://localhost:8000/v1``).
        model: Name of the model at the server.
        api: ``auto`` sends plain questions to completions and those for a chat template to chat;
            ``chat`` sends all to chat; ``completions`` refuses chat questions.
        revision: Which weights these are; part of the identity of every reply, so change it when the
            server loads others under the same name. The address is no part of it.
        api_key_env: Environment variable with the key; servers of one's own need none.
        concurrency: Calls in flight, at least 1; so many at most are paid twice after a kill.
        retries: When a request is repeated, and how long an answer may take.
        chat_assistant_prefix: Where an answer's beginning goes in chat: the end of the user's
            message, or an assistant's message that the server goes on with (vLLM, SGLang, llama.cpp).
        prices: By model, in USD per million tokens; None counts no money.
        extra_body: Further fields for every request.
        server: What the server takes, where it differs from vLLM.
    """

    rereads_scored = True
    """Scored texts are read as a whole: a server's prefix cache does not hold log-probabilities."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api: Api = "auto",
        revision: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        retries: Retries = Retries(),  # noqa: B008 - frozen
        chat_assistant_prefix: ChatOpening = "user",
        prices: dict[str, Price] | None = None,
        extra_body: dict[str, Any] | None = None,
        server: ServerFeatures = ServerFeatures(),  # noqa: B008 - frozen
    ) -> None:
        at_least(1, concurrency=concurrency)
        one_of(Api, api=api)
        one_of(ChatOpening, chat_assistant_prefix=chat_assistant_prefix)
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(
                f"expected base_url to begin with http:// or https://, got {base_url!r}; "
                "for example http://localhost:8000/v1"
            )
        self.base_url, self.api_key_env, self.retries = base_url, api_key_env, retries
        self.model, self.revision, self.price = model, revision, price_of(model, prices)
        self.api, self.chat_assistant_prefix = api, chat_assistant_prefix
        self.concurrency, self.server, self.extra_body = concurrency, server, extra_body or {}
        self.learned = Learned(VerdictTokens(base_url, model, server.supports_logprob_token_ids))

    @property
    def fingerprint(self) -> str:
        """Model, revision and every setting that can change a reply."""
        server, marks = self.server, tuple(self.server.thought_marks)
        extra = json.dumps(self.extra_body, sort_keys=True) if self.extra_body else ""
        return (
            f"endpoint:{self.model}@{self.revision or 'unnamed'},api={self.api},"
            f"top_logprobs={server.top_logprobs},chat_assistant_prefix={self.chat_assistant_prefix},"
            f"echo_start={server.echo_start!r},extra={extra}"
            + (",neutral" if server.neutral_sampling and server.supports_temperature else "")
            + ("" if server.supports_temperature else ",temperature=own")
            + ("" if server.supports_seed is not False else ",seed=none")
            + ("" if server.supports_logprob_token_ids is not False else ",verdicts=likeliest")
            + ("" if marks == ("<think>", "</think>") else f",marks={marks}")
        )

    def answer(self, calls: Sequence[Call], done: Callable[[int, Response], None]) -> None:
        """Answer calls; ``done`` hears of each as it arrives.

        If ``done`` raises, or the server is of no use (``EndpointError``), no further call is started,
        those in flight are awaited and reported, and then the first error is raised.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(self._answer(calls, done))
        else:  # a notebook's, which takes no second loop in its thread
            run_beside(self._answer(calls, done))

    def check(self) -> None:
        """Find out before any work whether anybody answers.

        ``EndpointError``: nobody does, or the key is refused.
        """
        openai, wait = openai_package(), min(self.retries.timeout, CHECK_SECONDS)
        try:
            with self._client(openai.OpenAI, max_retries=1, timeout=wait) as client:
                client.models.with_raw_response.list()
        except openai.APIConnectionError as error:
            raise EndpointError(
                f"expected a server at {self.base_url}, got no answer ({error}); see to base_url, or "
                "start it"
            ) from error
        except openai.AuthenticationError as error:
            raise EndpointError(
                f"expected {self.base_url} to take the key in {self.api_key_env}, got HTTP 401: "
                f"{error.message[:200]}; set another"
            ) from error
        except openai.APIStatusError:
            return  # it answers; not every server lists its models

    def _client(self, kind: Any, **options: Any) -> Any:
        key = os.environ.get(self.api_key_env) or "none"
        return kind(base_url=self.base_url, api_key=key, **options)

    async def _answer(self, calls: Sequence[Call], done: Callable[[int, Response], None]) -> None:
        left = iter(enumerate(calls))
        failures: list[str | None] = []  # of all replies, in the order in which they came
        patience = max(GIVE_UP_AFTER, 2 * self.concurrency)
        is_stopped = False

        async def work() -> None:
            """Take and answer calls until none is left or the server is evidently gone."""
            nonlocal is_stopped
            try:
                while not is_stopped and (taken := next(left, None)) is not None:
                    reply = await caller.answer(taken[1])
                    done(taken[0], reply)
                    failures.append(reply.failure)
                    self.learned.has_answered |= not is_of_server(reply.failure)
                    is_gone = len(failures) >= patience and all(
                        map(is_transient, failures[-patience:])
                    )
                    if is_gone and not is_stopped:
                        raise caller.silent(patience)
            except BaseException:
                is_stopped = True
                raise

        kind, timeout = openai_package().AsyncOpenAI, self.retries.timeout
        async with self._client(kind, max_retries=0, timeout=timeout) as client:
            caller = Caller(client, self)
            workers = [work() for _ in range(min(self.concurrency, len(calls)))]
            ends = await asyncio.gather(*workers, return_exceptions=True)
        for error in ends:
            if error is not None:
                raise error
        # or all of several calls met a broken connection, however well earlier ones went
        is_cut_off = len(failures) >= LOST_AT and set(failures) == {"connection"}
        if calls and (is_cut_off or not self.learned.has_answered):
            raise caller.silent(len(calls))


def run_beside(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on a loop in another thread, wait for it, and raise what it raises.

    An interrupt of the waiting thread (Ctrl-C) cancels it.
    """
    begun: Future[tuple[asyncio.AbstractEventLoop, Any]] = Future()

    async def whole() -> None:
        begun.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        await work

    with ThreadPoolExecutor(1, "endpoint") as pool:
        ended = pool.submit(asyncio.run, whole())
        try:
            ended.result()
        except BaseException:
            loop, task = begun.result()
            with suppress(RuntimeError):  # the loop is closed: `work` itself raised
                loop.call_soon_threadsafe(task.cancel)
            raise
