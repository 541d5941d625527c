"""Servers for rollouts: stand-ins in this process; for tests marked ``server``, a real vLLM."""

import itertools
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import small_model
import torch
from stand_in_server import StandIn

from rlaif_pl.models import ActorCritic, BackboneOptions, Lora

FLAGS = (
    "--dtype float32 --max-model-len 2048 --no-enable-chunked-prefill --max-num-batched-tokens 8192 "
    "--max-num-seqs 32 --enforce-eager"
)
ADAPTERS = "--enable-lora --max-lora-rank 16 --max-loras 2"
WORLD = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}
START_S = 900


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory) -> str:
    """Write the model that servers and trainer hold."""
    with torch.random.fork_rng():
        return str(small_model.write(tmp_path_factory.mktemp("small") / "model"))


@pytest.fixture
def stand_in(small_folder):
    """Return a maker of stand-ins, stopped at the end; keywords are what they pretend."""
    made = []

    def make(**pretended):
        made.append(StandIn(small_folder, **pretended))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def actor_of(small_folder):
    """Return a maker of actors; ``lora=None`` trains the upper layers whole."""

    def make(lora=Lora(r=4, alpha=8), trunk_layers=2, value_network="none"):  # noqa: B008 - frozen
        backbone = BackboneOptions(small_folder, trunk_layers=trunk_layers)
        return ActorCritic(backbone, lora=lora, value_network=value_network)

    return make


def move(model, size=0.05):
    """Change everything that is trained, as an update does."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=size)


@pytest.fixture
def moved():
    return move


class RealServer:
    """A vLLM server on loopback, of the Python named by RLAIF_PL_VLLM_PYTHON."""

    def __init__(self, python: str, folder: str, log: Path, port: int, flags: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", folder]
        words = ["--served-model-name", "served", "--host", "127.0.0.1", "--port", str(port)]
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                [*command, *words, *flags.split()],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **WORLD},
                cwd=log.parent,
                start_new_session=True,
            )
        self.log = log

    def wait(self) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(1)
        raise RuntimeError(f"no server at {self.url}: {self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        """End the server and its workers, which are a process group of their own."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)


def start_real(folder: str, place: Path, port: int, adapters: bool = True) -> RealServer:
    python = os.environ.get("RLAIF_PL_VLLM_PYTHON")
    if python is None:
        pytest.skip("needs RLAIF_PL_VLLM_PYTHON, a Python with vllm; make server-test has one")
    server = RealServer(
        python, folder, place / "log.txt", port, f"{FLAGS} {ADAPTERS if adapters else ''}"
    )
    try:
        server.wait()
    except BaseException:
        server.stop()
        raise
    return server


PORT = int(os.environ.get("RLAIF_PL_SERVER_PORT", "8747"))
NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def real_server(small_folder, tmp_path_factory):
    """Start a server of the small model, or take the one at RLAIF_PL_SERVER_URL that serves it."""
    running = os.environ.get("RLAIF_PL_SERVER_URL")
    if running is not None:
        yield SimpleNamespace(url=running)
        return
    server = start_real(small_folder, tmp_path_factory.mktemp("vllm"), PORT)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def start_real_server(tmp_path_factory):
    """Return a starter of servers of any folder."""
    started = []

    def start(folder, adapters=True):
        port = PORT + 1 + next(NUMBERS)
        started.append(start_real(folder, tmp_path_factory.mktemp("vllm"), port, adapters))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def start_server(small_folder, start_real_server):
    """Return a starter of further servers of the small model, which end with the test."""
    started = []

    def start(adapters=True):
        started.append(start_real_server(small_folder, adapters))
        return started[-1]

    yield start
    for server in started:
        server.stop()
