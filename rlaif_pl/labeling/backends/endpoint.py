"""A model behind any server that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp, OpenAI itself."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rlaif_pl.data.failures import is_of_server, is_transient
from rlaif_pl.labeling.backends.beside import run_beside
from rlaif_pl.labeling.backends.endpoint_calls import Caller
from rlaif_pl.labeling.backends.endpoint_errors import EndpointError
from rlaif_pl.labeling.backends.endpoint_http import Learned, Retries, Sender, openai_package
from rlaif_pl.labeling.backends.endpoint_request import Api, ChatOpening, ServerFeatures, Settings
from rlaif_pl.labeling.calls import Call, Response
from rlaif_pl.labeling.usage.spending import Price, price_of

CHECK_SECONDS = 30.0  # longest wait for a server's list of models
LOST_AT = 2  # calls, all of a batch, that met a broken connection
GIVE_UP_AFTER = 20  # calls that failed in a row, each after all its retries


class EndpointBackend:
    """Asks a server, several calls at a time; every reply is handed on as it arrives.

    Requests are repeated after 429, 5xx, timeouts, broken connections and broken bodies (an error in
    a body of status 200 counts as its own status); a wrong address, key or model, an account without
    credit, a setting that every request is refused for, or a server that fails call after call stops
    the job with the server's sentence instead. Failures are reported by kind: ``timeout``,
    ``connection``, ``http_500``, ..., ``malformed_reply``, ``no_logprobs``, ``too_long``,
    ``refused``, ``empty``, ``unclosed_thought``, ``unaligned`` (a token holds the end of the context
    and the beginning of the target).

    Args:
        base_url: Address up to and with the version (``http://localhost:8000/v1``).
        model: Name of the model at the server.
        api: ``auto`` sends plain questions to completions and those for a chat template to chat;
            ``chat`` sends everything to chat, for servers without completions; ``completions``
            refuses chat questions.
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
        if concurrency < 1:
            raise ValueError(f"expected concurrency of at least 1, got {concurrency}")
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(
                f"expected base_url to begin with http:// or https://, got {base_url!r}; "
                "for example http://localhost:8000/v1"
            )
        self.base_url = base_url
        self.model = model
        self.revision = revision
        self.api_key_env = api_key_env
        self.concurrency = concurrency
        self.price = price_of(model, prices)
        self.retries = retries
        self.settings = Settings(
            model, api, chat_assistant_prefix, extra_body or {}, self.price, server
        )
        self._learned = Learned()

    @property
    def fingerprint(self) -> str:
        """Model, revision and every setting that can change a reply."""
        s, server = self.settings, self.settings.server
        extra = json.dumps(s.extra_body, sort_keys=True) if s.extra_body else ""
        marks = tuple(server.thought_marks)
        return (
            f"endpoint:{self.model}@{self.revision or 'unnamed'},api={s.api},"
            f"top_logprobs={server.top_logprobs},chat_assistant_prefix={s.chat_assistant_prefix},"
            f"echo_start={server.echo_start!r},extra={extra}"
            + (",neutral" if server.neutral_sampling and server.supports_temperature else "")
            + ("" if server.supports_temperature else ",temperature=own")
            + ("" if server.supports_seed is not False else ",seed=none")
            + ("" if server.supports_logprob_token_ids is not False else ",verdicts=likeliest")
            + ("" if marks == ("<think>", "</think>") else f",marks={marks}")
        )

    def answer(self, calls: Sequence[Call], done: Callable[[int, Response], None]) -> None:
        """Answer calls; ``done`` hears of each as it arrives.

        If ``done`` raises, or the server turns out to be of no use, no further call is started, those
        in flight are awaited and reported, and then the first error is raised.

        Raises:
            EndpointError: The server cannot be used, or failed call after call.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(self._answer(calls, done))
        else:  # a notebook's, which takes no second loop in its thread
            run_beside(self._answer(calls, done))

    def check(self) -> None:
        """Ask for the list of models, to find out before any work whether anybody answers.

        Raises:
            EndpointError: Nobody does, or the key is refused.
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

    def _client(self, kind: Any, max_retries: int, timeout: float) -> Any:
        key = os.environ.get(self.api_key_env) or "none"
        options = {"max_retries": max_retries, "timeout": timeout}
        return kind(base_url=self.base_url, api_key=key, **options)

    async def _answer(self, calls: Sequence[Call], done: Callable[[int, Response], None]) -> None:
        made = self._client(openai_package().AsyncOpenAI, 0, self.retries.timeout)
        async with made as client:
            sender = Sender(client, self.retries, self.api_key_env, self._learned)
            caller = Caller(sender, self.settings)
            pool = _Pool(enumerate(calls), caller, done, max(GIVE_UP_AFTER, 2 * self.concurrency))
            workers = [pool.work() for _ in range(min(self.concurrency, len(calls)))]
            ends = await asyncio.gather(*workers, return_exceptions=True)
        for error in ends:
            if error is not None:
                raise error
        # or all of several calls met a broken connection, however well earlier ones went
        is_cut_off = pool.cut_off >= LOST_AT and not pool.answered
        if calls and (is_cut_off or not self._learned.has_answered):
            raise EndpointError(sender.silent(len(calls)))


@dataclass
class _Pool:
    """Calls on their way, taken by workers one at a time."""

    left: Iterator[tuple[int, Call]]
    caller: Caller
    done: Callable[[int, Response], None]
    patience: int  # calls that may fail in a row for reasons that lie with the server
    _failed_in_row: int = 0
    _is_stopped: bool = False
    answered: int = 0
    cut_off: int = 0

    async def work(self) -> None:
        """Take and answer calls until none is left or the pool is stopped."""
        is_whole = False
        try:
            while not self._is_stopped and (taken := next(self.left, None)) is not None:
                place, call = taken
                reply = await self.caller.answer(call)
                self.done(place, reply)
                self._watch(reply)
            is_whole = True
        finally:
            if not is_whole:
                self._is_stopped = True

    def _watch(self, reply: Response) -> None:
        """Stop where the server is evidently gone."""
        sender = self.caller.sender
        self.cut_off += reply.failure == "connection"
        self.answered += reply.failure != "connection"
        sender.learned.has_answered |= not is_of_server(reply.failure)
        self._failed_in_row = self._failed_in_row + 1 if is_transient(reply.failure) else 0
        if self._failed_in_row >= self.patience and not self._is_stopped:
            raise EndpointError(sender.silent(self._failed_in_row))
