"""Requests to vLLM servers: failures told apart, samples by token ids, several asked at a time."""

from __future__ import annotations

import math
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import httpx

from rlaif_pl.engine.sampling import SamplingParams

CONNECT_S = 10.0
MOST_SEED = 1 << 62  # seeds of n samples are seed + k, and none may pass 2^63 - 1
Job = TypeVar("Job")
Result = TypeVar("Result")


class ServerGoneError(ConnectionError):
    """A server that cannot be reached, gives no answer in time, or fails by itself."""


class RefusedError(ValueError):
    """A request that a server refuses (4xx); ``is_route``: whether it knows the path at all."""

    def __init__(self, message: str, is_route: bool) -> None:
        super().__init__(message)
        self.is_route = is_route


class Client:
    """One server, at an address with or without ``/v1``; ``transport`` None is the network."""

    def __init__(
        self, base_url: str, timeout_s: float, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = base_url.rstrip("/").removesuffix("/v1")
        self.timeout_s = timeout_s
        self._transport = transport
        self._http = self._opened()

    def _opened(self) -> httpx.Client:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        return httpx.Client(
            base_url=self.url, limits=limits, transport=self._transport, trust_env=False
        )

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON at a path; see ``post``."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: dict[str, Any], timeout_s: float = math.inf) -> dict[str, Any]:
        """Post JSON and return what is answered, a text under ``text``; else an error from above."""
        return self._ask("POST", path, body, timeout_s)

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float = math.inf
    ) -> dict[str, Any]:
        most = min(timeout_s, self.timeout_s)
        wait = httpx.Timeout(most, connect=min(CONNECT_S, most), pool=None)
        try:
            reply = self._http.request(method, path, json=body, timeout=wait)
        except httpx.TimeoutException as error:
            late = f"{self.url} gave no answer to {path} within {most:g} s"
            raise ServerGoneError(late) from error
        except httpx.TransportError as error:
            raise ServerGoneError(f"{self.url} cannot be reached: {error}") from error
        found = _json(reply)
        if reply.is_success:
            return found
        fault = found.get("error", found)
        said = fault.get("message") if isinstance(fault, dict) else fault
        text = " ".join(str(said or found.get("detail") or reply.text).split())[:600]
        message = f"{self.url}{path} answered {reply.status_code}: {text}"
        if reply.status_code >= 500:
            raise ServerGoneError(message)
        raise RefusedError(message, is_route=found != {"detail": "Not Found"})

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        self._http.close()
        self._http = self._opened()


def _json(reply: httpx.Response) -> dict[str, Any]:
    try:
        found = reply.json()
    except ValueError:
        return {"text": reply.text}
    return found if isinstance(found, dict) else {"text": reply.text, "value": found}


class Sample(NamedTuple):
    """One response as a server drew it."""

    tokens: list[int]
    logprobs: list[float]  # nats; empty where none were asked
    finished: bool


def request_body(
    model: str,
    prompt: Sequence[int],
    params: SamplingParams,
    end_ids: Iterable[int],
    *,
    seed: int | None,
    with_logprobs: bool,
) -> dict[str, Any]:
    """Return the body of a request for ``params.n`` samples; one where they are greedy.

    Every setting is sent: what is left out comes from the model's generation_config.json. The ends are
    the trainer's alone, so the server's own is ignored.
    """
    greedy = params.temperature == 0
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(prompt),
        "n": 1 if greedy else params.n,
        "max_tokens": params.max_new_tokens,
        "temperature": params.temperature,
        "top_p": 1.0 if greedy else params.top_p,
        "top_k": -1 if greedy or params.top_k == 0 else params.top_k,
        "min_p": 0.0 if greedy else params.min_p,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "min_tokens": 0,
        "stop": list(params.stop),
        "stop_token_ids": sorted({*end_ids, *params.stop_token_ids}),
        "ignore_eos": True,
        "return_token_ids": True,
    }
    if with_logprobs:
        body["logprobs"] = 0
    if seed is not None and not greedy:
        body["seed"] = seed % MOST_SEED
    return body


def read_samples(
    answer: dict[str, Any], body: dict[str, Any], vocab_size: int, url: str
) -> list[Sample]:
    """Return the samples of an answer, in order; ValueError where they are not what was asked for."""
    choices = sorted(answer.get("choices") or [], key=lambda choice: int(choice.get("index", 0)))
    if len(choices) != body["n"]:
        raise ValueError(f"expected {body['n']} samples from {url}, got {len(choices)}")
    return [_sample(choice, body, vocab_size, url) for choice in choices]


def _sample(choice: dict[str, Any], body: dict[str, Any], vocab_size: int, url: str) -> Sample:
    tokens, read = choice.get("token_ids"), choice.get("prompt_token_ids")
    if not isinstance(tokens, list) or not tokens:
        raise ValueError(
            f"expected token_ids in what {url} samples, got {tokens!r}; it is too old or no vLLM: "
            "return_token_ids came with 0.10.2"
        )
    if read is not None and read != body["prompt"]:
        raise ValueError(
            f"expected {url} to read the prompt's {len(body['prompt'])} tokens, it read {len(read)} "
            "others (truncated?); raise its --max-model-len"
        )
    if max(tokens) >= vocab_size:
        raise ValueError(
            f"expected token ids below {vocab_size}, which the trainer's tokenizer ends at, got "
            f"{max(tokens)} from {url}; it serves a model of another vocabulary"
        )
    reason = choice.get("finish_reason")
    if reason not in ("stop", "length"):
        raise ValueError(
            f"expected samples of {url} to end by stop or length, got {reason!r}; did something else "
            "pause or abort it?"
        )
    logprobs: list[float] = []
    if "logprobs" in body:
        found = (choice.get("logprobs") or {}).get("token_logprobs") or []
        logprobs = [math.nan if value is None else float(value) for value in found]
        if len(logprobs) != len(tokens) or not all(map(math.isfinite, logprobs)):
            raise ValueError(
                f"expected a finite log-probability of each of {len(tokens)} tokens from {url}, got "
                f"{found[:3]}... ({len(found)})"
            )
    return Sample([int(token) for token in tokens], logprobs, reason == "stop")


class Servers:
    """Servers that answer, of those named; each is sent ``concurrency`` requests at a time."""

    def __init__(self, clients: Sequence[Client], concurrency: int) -> None:
        self.all = tuple(clients)
        self.alive = list(clients)
        self.concurrency = concurrency
        self._reasons: dict[str, str] = {}
        self._lock = threading.Lock()

    def drop(self, client: Client, error: Exception) -> None:
        """Ask a server no more, with a notice."""
        with self._lock:
            if client not in self.alive:
                return
            self.alive.remove(client)
            self._reasons[client.url] = str(error)
        left = ", ".join(each.url for each in self.alive) or "none"
        said = f"{error}; its prompts are asked elsewhere, servers left: {left}"
        warnings.warn(said, stacklevel=2)

    def each(self, do: Callable[[Client], object]) -> None:
        """Do something with every server that answers, one after the other, as long as one is left."""
        for client in list(self.alive):
            try:
                do(client)
            except ServerGoneError as error:
                self.drop(client, error)
        self.require()

    def require(self) -> None:
        """Refuse (ConnectionError) to go on without a server."""
        if self.alive:
            return
        said = "; ".join(self._reasons[url] for url in sorted(self._reasons))
        raise ConnectionError(
            f"expected a vLLM server to sample from, none of {len(self.all)} is left: {said}; start "
            "them again and resume the run from its last checkpoint, or leave rollout out to sample "
            "in this process"
        )

    def ask_all(self, jobs: Sequence[Job], ask: Callable[[Client, Job], Result]) -> list[Result]:
        """Ask every job of some server, in rounds: what a dying one had is left for the next."""
        results: dict[int, Result] = {}
        waiting: deque[int] = deque()

        def work(client: Client) -> None:
            while client in self.alive:
                try:
                    n = waiting.popleft()
                except IndexError:
                    return
                try:
                    results[n] = ask(client, jobs[n])
                except ServerGoneError as error:
                    self.drop(client, error)
                except BaseException:
                    waiting.clear()  # the others are to stop, too
                    raise

        while len(results) < len(jobs):
            self.require()
            waiting.clear()  # of what a server that died has left
            waiting.extend(n for n in range(len(jobs)) if n not in results)
            each = min(self.concurrency, len(waiting))
            workers = [client for client in self.alive for _ in range(each)]
            with ThreadPoolExecutor(len(workers)) as pool:
                futures = [pool.submit(work, client) for client in workers]
                try:
                    for future in futures:
                        future.result()
                except BaseException:
                    waiting.clear()  # an interrupt reaches this thread alone
                    raise
        return [results[n] for n in range(len(jobs))]
