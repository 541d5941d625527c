"""Send all weights of a policy to vLLM servers from GPU to GPU, by vLLM's own helpers over NCCL.

Written against vLLM 0.32 (https://docs.vllm.ai/en/latest/training/weight_transfer/) and run with a
stand-in only. The fixed text that is scored after every update tells what arrived.
"""

from __future__ import annotations

import importlib
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from rlaif_pl.models.sampled_policy import SampledPolicy
from rlaif_pl.rl.vllm.client import Client, RefusedError
from rlaif_pl.rl.vllm.facts import ServerFacts

VERSION = "0.32"  # the helpers changed three times in ten releases
START = """start it with --weight-transfer-config '{"backend": "nccl"}'"""


class WeightTransfer:
    """One NCCL group with one server: this process is rank 0, the server's workers follow."""

    def __init__(self, client: Client, facts: ServerFacts) -> None:
        self._client = client
        self._dtype = getattr(torch, facts.dtype or "bfloat16")
        self._device = torch.device("cpu")
        self._tensors: dict[str, Tensor] = {}
        self._engine: Any = None

    def send(self, policy: SampledPolicy) -> None:
        """Send the present weights, adapters folded in; ValueError: the server refuses them."""
        self._device, self._tensors = policy.device, dict(policy.tensors())
        if self._device.type == "cuda":  # vLLM reads them on streams of its own, that wait for none
            torch.cuda.current_stream(self._device).synchronize()
        try:
            if self._engine is None:
                self._engine = self._join()
            self._client.post("/pause?mode=wait", {})
            self._engine.send_weights()
            self._client.post("/resume", {})
        except RefusedError as error:
            raise ValueError(
                f"expected {self._client.url} to take weights over NCCL, got: {error}; a server whose "
                f"update broke off does not answer rightly any more: {START} again"
            ) from error
        finally:
            self._tensors = {}

    def close(self) -> None:
        """Leave the group."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None

    def _join(self) -> Any:
        """Form the group; vLLM's helper asks the server to join while it opens rank 0."""
        helpers = _helpers()
        address = _address_towards(self._client.url)
        workers = int(self._client.get("/get_world_size")["world_size"])
        info = helpers.NCCLTrainerInitInfo(
            master_address=address, master_port=_free_port(address), world_size=1 + workers, rank=0
        )
        return helpers.NCCLTrainerWeightTransferEngine.trainer_init(
            info, client=_Routes(self._client), source=_source(helpers, self)
        )


def check_transfer(facts: ServerFacts, policy: SampledPolicy) -> None:
    """Refuse, before any work, what NCCL could not carry."""
    if facts.is_cpu or policy.device_type != "cuda":
        where = f"{facts.url} on a CPU" if facts.is_cpu else f"the trainer on {policy.device_type}"
        raise ValueError(
            f"expected trainer and server on GPUs to transfer weights over NCCL, got {where}; set "
            "rollout.init_args.weights to folder"
        )
    if not facts.has_dev_routes:
        raise ValueError(
            f"expected {facts.url} to take weights while it runs, it knows no such route; {START} and "
            "VLLM_SERVER_DEV_MODE=1 in its environment"
        )
    if facts.transfer != "nccl":
        raise ValueError(
            f"expected {facts.url} to be started for weights over NCCL, got "
            f"{facts.transfer or 'no weight transfer'}; {START}"
        )
    if facts.version is None or not facts.version.startswith(f"{VERSION}."):
        raise ValueError(
            f"expected {facts.url} to be vLLM {VERSION}, whose weight transfer this speaks, got "
            f"{facts.version}; serve by vllm=={VERSION}.*, or set rollout.init_args.weights to folder"
        )
    _helpers()


def _helpers() -> Any:
    try:
        found = importlib.import_module("vllm.version").__version__
    except ImportError:
        found = "none"
    if not found.startswith(f"{VERSION}."):
        raise ValueError(
            f"expected vllm {VERSION} to be installed beside the trainer, whose helpers send weights "
            f"over NCCL, got {found}; pip install 'vllm=={VERSION}.*', or set "
            "rollout.init_args.weights to folder"
        )
    return importlib.import_module("vllm.distributed.weight_transfer.nccl_engine")


def _source(helpers: Any, transfer: WeightTransfer) -> Any:
    class Source(helpers.WeightSource):  # type: ignore[misc]
        def metadata(self) -> list[Any]:
            return [
                helpers.ParamMeta(name, transfer._dtype, tuple(value.shape))
                for name, value in transfer._tensors.items()
            ]

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            # One at a time: of all weights no second copy is held.
            for name, value in transfer._tensors.items():
                yield name, value.to(transfer._device, transfer._dtype)

    return Source()


class _Routes:
    """The server's routes as vLLM's helpers call them, with this package's errors."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._client.post("/init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        self._client.post("/start_weight_update", {})

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._client.post("/update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        body = {} if weight_version is None else {"weight_version": weight_version}
        self._client.post("/finish_weight_update", body)


def _address_towards(url: str) -> str:
    """Address of this machine on the way to a server, which can reach it there."""
    parts = urlsplit(url)
    family, kind, _, _, where = socket.getaddrinfo(
        parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM
    )[0]
    with socket.socket(family, kind) as probe:
        probe.connect(where)  # sends nothing: it only chooses the way
        return str(probe.getsockname()[0])


def _free_port(address: str) -> int:
    with socket.create_server(
        (address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET
    ) as found:
        return int(found.getsockname()[1])
