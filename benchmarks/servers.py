"""Samples, updates and labels a second: a vLLM server on loopback beside this process, equal weights.

    RLAIF_PL_VLLM_PYTHON=build/server/bin/python OMP_NUM_THREADS=2 python benchmarks/servers.py

``make server-test`` makes that environment. Two servers of the embedded model are started one after
the other (vLLM's CPU build cannot score a prompt for a server with adapters): the first draws for a
policy with adapters, as A2C does after an update, the second labels. Labels must agree within 1e-3
before a time counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlaif_pl.data.sources import load_preferences, load_prompts
from rlaif_pl.engine import SamplingParams
from rlaif_pl.labeling import EndpointBackend, LocalBackend, PairwiseLabeler
from rlaif_pl.labeling.backends.endpoint_http import Retries
from rlaif_pl.models import ActorCritic, BackboneOptions, Lora
from rlaif_pl.models.embedded import embedded_model_folder
from rlaif_pl.models.sampled_policy import SampledPolicy
from rlaif_pl.rl import LocalGenerator, VLLMGenerator
from rlaif_pl.types import Preference

FLAGS = (
    "--dtype float32 --max-model-len 2048 --no-enable-chunked-prefill --max-num-batched-tokens 8192 "
    "--max-num-seqs 32 --enforce-eager"
)
ADAPTERS = "--enable-lora --max-lora-rank 16 --max-loras 2"
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}
START_S = 600.0
TOLERANCE = 1e-3
PROMPTS, SAMPLES, TOKENS, UPDATES = 8, 4, 32, 5


@contextlib.contextmanager
def server(python: str, port: int, flags: str, folder: Path) -> Iterator[str]:
    """Start vLLM with the embedded model; yield its address once it answers.

    Raises:
        RuntimeError: It ended, or does not answer in time; its last words are told.
    """
    url, log = f"http://127.0.0.1:{port}", folder / f"{port}.log"
    words = [python, "-m", "vllm.entrypoints.openai.api_server"]
    words += ["--model", str(embedded_model_folder()), "--served-model-name", "served"]
    words += ["--host", "127.0.0.1", "--port", str(port), *flags.split()]
    with log.open("w") as stream:
        process = subprocess.Popen(
            words,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ENVIRONMENT},
            cwd=folder,
            start_new_session=True,
        )
    try:
        ends = time.monotonic() + START_S
        while time.monotonic() < ends and process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                    yield url
                    return
            time.sleep(1)
        raise RuntimeError(f"expected a server at {url}, got {log.read_text()[-2000:]}")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def timed(function: Callable[[], int], repeats: int) -> float:
    """Return what a function counts a second, the best of several calls after one that warms up."""
    function()
    rates = []
    for _ in range(repeats):
        begun = time.perf_counter()
        count = function()
        rates.append(count / (time.perf_counter() - begun))
    return max(rates)


def sampling_rates(url: str, place: Path, repeats: int) -> tuple[dict[str, float], float, float]:
    """Measure who draws how many samples a second.

    Returns:
        Samples a second by who draws; seconds that an update of the adapters takes, with its check; the
        largest distance of the server's log-probabilities in these checks, in nats a token.
    """
    backbone = BackboneOptions("smollm2-135m", trunk_layers=20, dtype="float32")
    actor = ActorCritic(backbone, lora=Lora(r=16, alpha=32), value_network="none")
    policy = SampledPolicy(actor.policy)
    texts = [prompt.text for prompt in load_prompts("tiny_tldr/final")[:PROMPTS]]
    rows = actor.policy.encode_prompts(texts)
    params = SamplingParams(n=SAMPLES, max_new_tokens=TOKENS)
    vllm = VLLMGenerator(url, str(place / "weights"), tolerance=TOLERANCE)
    vllm.prepare(policy, params, for_training=True)
    seconds, gaps = [], []
    for _ in range(UPDATES):
        with torch.no_grad():
            for parameter in actor.policy.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=1e-3)
        begun = time.perf_counter()
        vllm.update(policy)
        seconds.append(time.perf_counter() - begun)
        gaps.append(vllm.gap)
    seeds = list(range(PROMPTS * SAMPLES))

    def draw(generator: LocalGenerator | VLLMGenerator) -> int:
        return len(generator.generate(policy, rows, params, seeds).tokens)

    model = AutoModelForCausalLM.from_pretrained(embedded_model_folder(), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_folder(), padding_side="left")

    def plain() -> int:
        batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        with torch.no_grad():
            drawn = model.generate(
                **batch,
                do_sample=True,
                top_k=0,
                num_return_sequences=SAMPLES,
                max_new_tokens=TOKENS,
            )
        return len(drawn)

    rates = {
        "vLLM": timed(lambda: draw(vllm), repeats),
        "this process": timed(lambda: draw(LocalGenerator()), repeats),
        "transformers generate": timed(plain, repeats),
    }
    return rates, sum(seconds) / len(seconds), max(gaps)


def labeling_rates(url: str, pairs: Sequence[Preference]) -> dict[str, float]:
    """Measure who labels how many pairs a second.

    Raises:
        ValueError: The labels differ.
    """
    labelers = {
        f"vLLM, {many} at a time": PairwiseLabeler(
            EndpointBackend(f"{url}/v1", "served", concurrency=many, retries=Retries(timeout=600.0))
        )
        for many in (1, 16)
    }
    labelers["this process"] = PairwiseLabeler(
        LocalBackend("smollm2-135m", device="cpu", dtype="float32")
    )
    rates, labels = {}, {}
    for name, labeler in labelers.items():
        labeler.label(pairs[:1])
        begun = time.perf_counter()
        labels[name] = [row.p_first for row in labeler.label(pairs)]
        rates[name] = len(pairs) / (time.perf_counter() - begun)
    for name, found in labels.items():
        for one, other in zip(found, labels["this process"], strict=True):
            if one is None or other is None or not abs(one - other) < TOLERANCE:
                raise ValueError(f"expected the labels of {name} within {TOLERANCE}, got {labels}")
    return rates


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print tables and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=os.environ.get("RLAIF_PL_VLLM_PYTHON"))
    parser.add_argument("--port", type=int, default=8790)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args(words)
    if given.python is None:
        parser.error("expected --python or RLAIF_PL_VLLM_PYTHON: a Python that has vllm")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with server(given.python, given.port, f"{FLAGS} {ADAPTERS}", place) as url:
            drawn, update, gap = sampling_rates(url, place, given.repeats)
        pairs = load_preferences("tiny_tldr/pairs").rows[: given.pairs]
        with server(given.python, given.port + 1, FLAGS, place) as url:
            labeled = labeling_rates(url, pairs)
    console = Console()
    for title, rates in (("samples/s", drawn), ("pairs labeled/s", labeled)):
        table = Table("who", title, title=f"{torch.get_num_threads()} threads, float32")
        for name, rate in rates.items():
            table.add_row(name, f"{rate:.2f}")
        console.print(table)
    console.print(
        f"update of the adapters with its check: {update:.2f} s, at most {gap:.1e} nats off"
    )
    ratios = {
        "samples, vLLM to this process": drawn["vLLM"] / drawn["this process"],
        "samples, this process to transformers": drawn["this process"]
        / drawn["transformers generate"],
        "labels, vLLM to this process": labeled["vLLM, 16 at a time"] / labeled["this process"],
    }
    rounded = {name: round(value, 2) for name, value in ratios.items()}
    sys.stdout.write(json.dumps({"name": "servers", "ratios": rounded, "equal": True}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
