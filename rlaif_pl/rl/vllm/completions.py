"""Ask a vLLM server for samples of a prompt, by token ids both ways."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rlaif_pl.engine.sampling import SamplingParams

MOST_SEED = 1 << 62  # seeds of n samples are seed + k, and none may pass 2^63 - 1


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
