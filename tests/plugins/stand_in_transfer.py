"""The part of vLLM's trainer-side weight transfer that is called, with queues in NCCL's place."""

from __future__ import annotations

import queue
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from types import ModuleType

GROUPS: dict[int, queue.Queue] = {}  # by port of the rendezvous


@dataclass
class ParamMeta:
    name: str
    dtype: object
    shape: tuple[int, ...]


class WeightSource:
    pass


@dataclass
class NCCLTrainerInitInfo:
    master_address: str
    master_port: int
    world_size: int
    rank: int


class NCCLTrainerWeightTransferEngine:
    """Calls the routes in vLLM 0.32's order, joins and broadcasts while a request is under way."""

    def __init__(self, client, source, port):
        self.client, self.source, self.port = client, source, port

    @classmethod
    def trainer_init(cls, info, *, client, source):
        assert info.rank == 0
        with ThreadPoolExecutor(1) as pool:
            sent = asdict(info) | {"rank_offset": 1}
            asked = pool.submit(client.init_weight_transfer_engine, sent)
            GROUPS[info.master_port] = queue.Queue()
            asked.result()
        return cls(client, source, info.master_port)

    def send_weights(self):
        meta = self.source.metadata()
        told = {
            "names": [each.name for each in meta],
            "dtype_names": [str(each.dtype).removeprefix("torch.") for each in meta],
            "shapes": [list(each.shape) for each in meta],
        }
        self.client.start_weight_update()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(self.client.update_weights, told)
            for each, (name, tensor) in zip(meta, self.source, strict=True):
                assert (each.name, each.dtype, each.shape) == (name, tensor.dtype, tensor.shape)
                GROUPS[self.port].put(tensor)
            asked.result()
        self.client.finish_weight_update()

    def shutdown(self):
        del GROUPS[self.port]


def install(monkeypatch, version="0.32.1"):
    """Let ``import vllm`` find this."""
    names = ["vllm", "vllm.version", "vllm.distributed", "vllm.distributed.weight_transfer"]
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["vllm.version"].__version__ = version
    here = sys.modules[__name__]
    monkeypatch.setitem(sys.modules, "vllm.distributed.weight_transfer.nccl_engine", here)
