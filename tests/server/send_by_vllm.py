"""Send two tensors by vLLM's own trainer-side helpers; run by the Python that has vLLM (no test).

Routes are answered here and what would go over NCCL is written down: everything between is vLLM's.
"""

import json
from types import SimpleNamespace

import httpx
import torch
from vllm.distributed.weight_transfer import nccl_engine

from rlaif_pl.rl.vllm.client import Client
from rlaif_pl.rl.vllm.facts import ServerFacts
from rlaif_pl.rl.vllm.transfer import WeightTransfer

WEIGHTS = {"a.weight": torch.ones(2, 3), "b.weight": torch.arange(4.0)}
asked, sent = [], []


def answer(request):
    asked.append([request.url.raw_path.decode(), json.loads(request.content or b"{}")])
    return httpx.Response(200, json={"world_size": 1})


def broadcast(iterator, group, src, post_iter_func, **_):
    sent.extend(post_iter_func(each) for each in iterator)


nccl_engine.open_trainer_endpoint = lambda _: SimpleNamespace(destroy=lambda: None)
nccl_engine.packed_nccl_broadcast_producer = broadcast
transfer = WeightTransfer(
    Client("http://127.0.0.1:9", 5, httpx.MockTransport(answer)),
    ServerFacts("http://127.0.0.1:9", "served", dtype="bfloat16"),
)
policy = SimpleNamespace(tensors=lambda: iter(WEIGHTS.items()), device=torch.device("cpu"))
transfer.send(policy)
transfer.close()
print(json.dumps([asked, [[str(each.dtype), each.tolist()] for each in sent]]))  # noqa: T201
