"""Draw responses by vLLM servers that are given the policy's weights after every update."""

from __future__ import annotations

import contextlib
import math
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from typing_extensions import override

from rlaif_pl.engine.generate import Generated
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.errors import above, at_least, one_of
from rlaif_pl.models.sampled_policy import Changed, SampledPolicy
from rlaif_pl.rl.generate import GenerationBackend
from rlaif_pl.rl.vllm import facts as known
from rlaif_pl.rl.vllm.client import (
    Client,
    RefusedError,
    Sample,
    ServerGoneError,
    Servers,
    read_samples,
    request_body,
)
from rlaif_pl.rl.vllm.transfer import WeightTransfer, check_transfer

Weights = Literal["folder", "nccl"]
CHECK_PROMPT = 300  # tokens: blocks of a prefix cache, 16 or 128 tokens, must be full to be stale
CHECK_TOKENS = 16
UNLOAD_S = 10.0  # seconds that the end of a run waits for a server
# A right server is off by rounding alone: by so many times what that does to the trainer's own
# log-probabilities of the same text, and at least by what float32 leaves after thousands of sums.
FACTOR, LEAST_TOLERANCE = 4.0, 1e-3


class VLLMGenerator(GenerationBackend):
    """Draws by one or several vLLM servers, in the trainer's place.

    Each update is a folder of its own, ``policy-RUN-vN``: adapters as PEFT's, or all weights; over NCCL
    there is none. After it the server draws a continuation of one fixed prompt, and the run stops where
    its log-probabilities are not the trainer's.

    Args:
        base_url: Where a server listens, or several; prompts are divided among them.
        adapter_dir: Folder that trainer and servers see under one path; weights pass through it.
        model: Name that the servers serve the policy's base model by; None takes the first.
        tolerance: Most that log-probabilities of the fixed text may differ by, in nats a token on
            average; None: some times what rounding in the server's type (bfloat16 where it does not
            say) does to the trainer's own.
        concurrency: Prompts a server is asked at a time.
        timeout_s: Seconds to wait for a prompt's responses; a server that takes longer is dropped.
        seeded: Send each prompt a seed, so that a server draws the same again.
        weights: How weights travel: ``folder``, or ``nccl`` from GPU to GPU, all of them with adapters
            folded in (vLLM 0.32 on both sides; never run on a GPU here).
        importance_cap: In training, the most that a token counts for its policy probability over the
            one it was drawn with, at least 1.
        overlap: In training, draw the next step's responses while a step trains, from weights one step
            old. Not with ``trainer.accumulate_grad_batches``.
    """

    is_remote = True

    def __init__(
        self,
        base_url: str | list[str],
        adapter_dir: str,
        model: str | None = None,
        tolerance: float | None = None,
        concurrency: int = 32,
        timeout_s: float = 600.0,
        seeded: bool = True,
        weights: Weights = "folder",
        importance_cap: float = 2.0,
        overlap: bool = False,
    ) -> None:
        urls = [base_url] if isinstance(base_url, str) else list(base_url)
        if not urls:
            raise ValueError("expected the base_url of a server, got none")
        at_least(1, concurrency=concurrency, importance_cap=importance_cap)
        above(0, tolerance=tolerance, timeout_s=timeout_s)
        one_of(Weights, weights=weights)
        self.importance_cap, self.overlap = importance_cap, overlap
        self.adapter_dir = Path(adapter_dir).absolute()
        self.model, self.tolerance, self.seeded = model, tolerance, seeded
        self.weights = weights
        self.servers = Servers([Client(url, timeout_s) for url in urls], concurrency)
        self.facts: dict[str, known.ServerFacts] = {}
        self.gap, self.allowed = 0.0, tolerance  # of the latest check, in nats a token
        self._run, self._version = secrets.token_hex(4), 0
        self._loaded: str | None = None  # adapter that is asked; None for the servers' own weights
        self._written: dict[Path, Changed] = {}  # what was sent and not taken back yet
        self._for_training = False
        self._transfers: dict[str, WeightTransfer] = {}  # by URL

    @override
    def prepare(self, policy: SampledPolicy, params: SamplingParams, *, for_training: bool) -> None:
        self._for_training = for_training
        self.servers.each(lambda client: self._read(client, policy, params))

    def _read(self, client: Client, policy: SampledPolicy, params: SamplingParams) -> None:
        found = known.read_facts(client, self.model)
        if found.logprobs_mode is None and self._for_training:
            found = replace(found, logprobs_mode=known.measured_mode(client, found.model))
        training, seeded = self._for_training, self.seeded
        known.check_sampling(found, params, for_training=training, seeded=seeded)
        if policy.changed != "nothing" and self.weights == "nccl":
            check_transfer(found, policy)
        elif policy.changed == "adapter":
            known.check_adapters(found, policy.rank)
        elif policy.changed == "whole":
            known.check_whole(found, is_tied=policy.is_tied)
        self.facts[client.url] = found

    @override
    def update(self, policy: SampledPolicy) -> None:
        if not self.facts:
            self.prepare(policy, SamplingParams(), for_training=self._for_training)
        former, self._loaded = list(self._written), None
        if policy.changed != "nothing" and self.weights == "nccl":
            self.servers.each(lambda client: self._transfer(client, policy))
        elif policy.changed != "nothing":
            self._version += 1  # under an old name servers serve keys of the old weights
            folder = self.adapter_dir / f"policy-{self._run}-v{self._version}"
            self._written[folder] = policy.changed
            policy.write(folder)
            if policy.changed == "adapter":
                self.servers.each(lambda client: self._load(client, folder))
                self._loaded = folder.name
            else:
                self.servers.each(lambda client: self._reload(client, folder))
        self.servers.each(lambda client: self._check(client, policy))
        for old in former:
            if self._written[old] == "adapter":
                self.servers.each(partial(_unload, name=old.name))
            self._delete(old)

    def _delete(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        del self._written[folder]

    @override
    def close(self) -> None:
        self._loaded = None
        for folder, changed in list(self._written.items()):
            for client in self.servers.alive if changed == "adapter" else ():
                with contextlib.suppress(ServerGoneError):
                    _unload(client, folder.name, UNLOAD_S)
            self._delete(folder)
        while self._transfers:
            self._transfers.popitem()[1].close()
        for client in self.servers.all:
            client.close()

    @override
    def share(self) -> dict[str, Any]:
        return {"loaded": self._loaded, "alive": [client.url for client in self.servers.alive]}

    @override
    def follow(self, state: dict[str, Any]) -> None:
        self._loaded = state["loaded"]
        for client in list(self.servers.alive):
            if client.url not in state["alive"]:
                self.servers.drop(client, ServerGoneError(f"{client.url} is lost to rank 0"))
        self.servers.require()

    @override
    def generate(
        self,
        policy: SampledPolicy,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        seeds: Sequence[int],
        *,
        keep_trunk: bool = False,  # noqa: ARG002 - states stay on the servers
        close: bool = False,  # noqa: ARG002
    ) -> Generated:
        self._check_lengths(max(map(len, prompts)), params.max_new_tokens)

        def ask(client: Client, n: int) -> list[Sample]:
            body = request_body(
                self._loaded or self.facts[client.url].model,
                prompts[n],
                params,
                policy.end_ids,
                seed=seeds[n * params.n] if self.seeded else None,
                with_logprobs=self._for_training,
            )
            found = _complete(client, body, policy.vocab_size)
            return found * params.n if params.temperature == 0 else found

        asked = self.servers.ask_all(range(len(prompts)), ask)
        samples = [sample for group in asked for sample in group]
        if (stop := policy.stop_checker(params)) is not None:
            # at what ended it, as the trainer's own sampler does
            cuts = [stop.cut(sample.tokens) for sample in samples]
            samples = [
                s if cut is None else Sample(s.tokens[:cut], s.logprobs[:cut], finished=True)
                for s, cut in zip(samples, cuts, strict=True)
            ]
        tokens, logprobs, finished = (list(each) for each in zip(*samples, strict=True))
        failed = [False] * len(samples)
        return Generated(
            tokens, finished, failed, logprobs=logprobs if self._for_training else None
        )

    def _check_lengths(self, prompt: int, response: int) -> None:
        for found in self.facts.values():
            if found.max_model_len is not None and prompt + response > found.max_model_len:
                raise ValueError(
                    f"expected prompt and response within the {found.max_model_len} tokens of "
                    f"{found.url}, got {prompt} and up to {response}; start it with --max-model-len "
                    f"{prompt + response} or more, or shorten prompts or sampling.max_new_tokens"
                )

    def _load(self, client: Client, folder: Path) -> None:
        body = {"lora_name": folder.name, "lora_path": str(folder)}
        try:
            client.post("/v1/load_lora_adapter", body)
        except (RefusedError, ServerGoneError) as error:
            if error.__cause__ is not None:  # it is gone; else it answered what is wrong
                raise
            raise ValueError(
                f"expected {client.url} to load adapters from {folder}, got: {error}; adapter_dir must "
                "be seen by the server under the same path, --max-lora-rank must not be below the "
                "policy's rank, and --enable-lora set"
            ) from error

    def _reload(self, client: Client, folder: Path) -> None:
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        client.post("/collective_rpc", body)
        _forget(client)

    def _transfer(self, client: Client, policy: SampledPolicy) -> None:
        if client.url not in self._transfers:
            self._transfers[client.url] = WeightTransfer(client, self.facts[client.url])
        self._transfers[client.url].send(policy)
        _forget(client)

    def _check(self, client: Client, policy: SampledPolicy) -> None:
        """Score one fixed text by server and trainer; a server that differs ends the run."""
        found = self.facts[client.url]
        most = (found.max_model_len or CHECK_PROMPT + CHECK_TOKENS) - CHECK_TOKENS
        prompt = policy.check_prompt(min(CHECK_PROMPT, most))
        params = SamplingParams(max_new_tokens=CHECK_TOKENS)
        model, seed = self._loaded or found.model, 0 if self.seeded else None
        body = request_body(model, prompt, params, (), seed=seed, with_logprobs=True)
        (sample,) = _complete(client, body, policy.vocab_size)
        with policy.on_device():
            ours = policy.score(prompt, sample.tokens)
            self.gap, self.allowed = _mean_gap(ours, sample.logprobs), self.tolerance
            if self.allowed is None:
                rounded = policy.score(prompt, sample.tokens, rounding=found.dtype or "bfloat16")
                self.allowed = max(LEAST_TOLERANCE, FACTOR * _mean_gap(ours, rounded))
        if not self.gap <= self.allowed:
            raise ValueError(
                f"expected {client.url} to give a fixed text the trainer's log-probabilities after "
                f"{model}, within {self.allowed:.2g} nats a token, got {self.gap:.3g}: it holds other "
                f"weights than {policy.name}, stale keys, or computes in another type; serve "
                f"{policy.name} (it serves {found.root}), --dtype float32, or raise "
                "rollout.init_args.tolerance"
            )


def _complete(client: Client, body: dict[str, Any], vocabulary: int) -> list[Sample]:
    return read_samples(client.post("/v1/completions", body), body, vocabulary, client.url)


def _forget(client: Client) -> None:
    """Empty a server's prefix cache, whose keys are of the weights before."""
    if client.post("/reset_prefix_cache", {}).get("success") is False:
        raise ValueError(
            f"expected {client.url} to forget the keys of its former weights, it did not "
            "(/reset_prefix_cache: success false): something else asks it; leave the server to this "
            "run alone"
        )


def _unload(client: Client, name: str, timeout_s: float = math.inf) -> None:
    """Have a server forget adapters; one that never loaded them says so."""
    with contextlib.suppress(RefusedError):
        client.post("/v1/unload_lora_adapter", {"lora_name": name}, timeout_s)


def _mean_gap(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)
