"""vLLM's protocol over one of our own policies, in this process, with faults on request."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from safetensors.torch import save_file
from stand_in_transfer import GROUPS

from rlaif_pl.engine.response_batch import assemble
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.models import BackboneOptions, load_policy
from rlaif_pl.text import Template

NAME = "served"


@dataclass
class StandIn:
    """A server that really loads adapter folders and whole folders, samples and scores.

    Attributes are what it pretends: flags it was started with, and faults.
    """

    folder: str
    dtype: str = "float32"
    mode: str = "raw_logprobs"
    max_rank: int = 16
    has_adapter_route: bool = True
    has_adapters: bool = True
    has_dev_routes: bool = True
    replicas: int = 1
    on_cpu: bool = False
    chunked_on_cpu: bool = False
    max_model_len: int = 2048
    is_stale: bool = False  # says that it loads, and does not
    keeps_keys: bool = False  # /reset_prefix_cache says success false
    dies_after: int | None = None  # completions
    delay_s: float = 0.0
    finish_reason: str | None = None
    transfer: str | None = None  # backend of --weight-transfer-config
    breaks_transfer: bool = False
    version: str = "0.32.0"
    group: int | None = None  # port at which it joined the trainer
    asked: list[dict] = field(default_factory=list)
    loaded: dict[str, object] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.device = "cpu" if self.on_cpu or self.chunked_on_cpu else "cuda"
        self.base = self.load(self.folder)
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                self.answer(outer.get(self.path))

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    self.answer(outer.post(self.path, body))

            def answer(self, found):
                if found is None:  # as a process that ends
                    self.connection.close()
                    return
                status, content = found
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def load(self, folder):
        return load_policy(BackboneOptions(folder, dtype=self.dtype), Template())

    def stop(self):
        self.http.shutdown()
        self.http.server_close()

    @property
    def dead(self):
        done = sum("max_tokens" in body for body in self.asked)
        return self.dies_after is not None and done >= self.dies_after

    def get(self, path):
        if self.dead:
            return None
        if path == "/v1/models":
            base = {"id": NAME, "root": self.folder, "max_model_len": self.max_model_len}
            loras = [{"id": name, "parent": NAME} for name in self.loaded]
            return 200, {"data": [base, *loras]}
        if path == "/version":
            return 200, {"version": self.version}
        if path == "/get_world_size":
            return 200, {"world_size": 1}
        if path.startswith("/server_info") and self.has_dev_routes:
            lora = {"max_lora_rank": self.max_rank} if self.has_adapters else None
            return 200, {
                "vllm_config": {
                    "lora_config": lora,
                    "model_config": {"logprobs_mode": self.mode, "dtype": f"torch.{self.dtype}"},
                    "parallel_config": {"data_parallel_size": self.replicas},
                    "device_config": {"device": self.device},
                    "scheduler_config": {"enable_chunked_prefill": self.chunked_on_cpu},
                    "weight_transfer_config": self.transfer and {"backend": self.transfer},
                }
            }
        return 404, {"detail": "Not Found"}

    def post(self, path, body):
        if self.dead:
            return None
        self.log.append(path)
        if path == "/v1/completions":
            self.asked.append(body)
            time.sleep(self.delay_s)
            return self.complete(body)
        if path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
            if not self.has_adapter_route:
                return 404, {"detail": "Not Found"}
            return self.change(path, body)
        if path == "/collective_rpc" and self.has_dev_routes:
            if not self.is_stale:
                self.base = self.load(body["kwargs"]["weights_path"])
            return 200, {"results": [None]}
        if path == "/reset_prefix_cache" and self.has_dev_routes:
            return 200, {"success": not self.keeps_keys}
        if path in ("/pause?mode=wait", "/resume", "/start_weight_update", "/finish_weight_update"):
            return 200, {"message": "done"}
        if path == "/init_weight_transfer_engine":
            self.group = body["init_info"]["master_port"]
            return 200, {"message": "Weight transfer initialized"}
        if path == "/update_weights":
            return self.receive(**body["update_info"])
        return 404, {"detail": "Not Found"}

    def receive(self, names, dtype_names, shapes):
        """Take tensors from the trainer's group, and be what they make with the folder's config."""
        if self.breaks_transfer:
            return 400, error(400, "weight transfer is broken")
        weights = {name: GROUPS[self.group].get(timeout=30) for name in names}
        found = [[str(w.dtype)[6:], list(w.shape)] for w in weights.values()]
        assert found == [list(each) for each in zip(dtype_names, shapes, strict=True)]
        if not self.is_stale:
            with tempfile.TemporaryDirectory() as place:
                shutil.copytree(self.folder, place, dirs_exist_ok=True)
                save_file(weights, Path(place) / "model.safetensors", {"format": "pt"})
                self.base = self.load(place)
        return 200, {"message": "Weights updated"}

    def change(self, path, body):
        name = body["lora_name"]
        if path == "/v1/unload_lora_adapter":
            if name not in self.loaded:
                return 404, error(404, f"The lora adapter '{name}' cannot be found.")
            del self.loaded[name]
            return 200, f"Success: LoRA adapter '{name}' removed successfully."
        if name in self.loaded:
            return 400, error(400, f"The lora adapter '{name}' has already been loaded.")
        with open(f"{body['lora_path']}/adapter_config.json") as stream:
            rank = json.load(stream)["r"]
        if rank > self.max_rank:
            said = f"LoRA rank {rank} is greater than max_lora_rank {self.max_rank}."
            return 500, error(500, said)
        own = self.load(body["lora_path"])
        self.loaded[name] = self.base if self.is_stale else own
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def complete(self, body):
        known = {NAME: self.base, **self.loaded}
        if body["model"] not in known:
            said = f"The model `{body['model']}` does not exist. Valid aliases: {', '.join(known)}."
            return 404, error(404, said)
        policy = known[body["model"]]
        params = SamplingParams(
            n=body.get("n", 1),
            max_new_tokens=body["max_tokens"],
            temperature=body["temperature"],
            top_k=max(body["top_k"], 0),
            top_p=body["top_p"],
            min_p=body["min_p"],
            stop=tuple(body.get("stop", ())),
        )
        policy.stop_token_ids = frozenset(body.get("stop_token_ids", ()))
        seeds = [body.get("seed", 0) + k for k in range(params.n)]
        drawn = policy.sample([body["prompt"]], params, seeds)
        is_plain = self.mode != "processed_logprobs" or params.temperature == 0
        scored = SamplingParams() if is_plain else params
        with torch.no_grad():
            batch = assemble([body["prompt"]], drawn.tokens, policy.pad)
            logprobs = policy.logprobs(batch, params=scored).tolist()
            top = self.top(policy, body)
        choices = [
            {
                "index": k,
                "token_ids": row,
                "prompt_token_ids": body["prompt"],
                "finish_reason": self.finish_reason or ("stop" if ended else "length"),
                "logprobs": {"token_logprobs": logprobs[k][: len(row)], "top_logprobs": [top]},
            }
            for k, (row, ended) in enumerate(zip(drawn.tokens, drawn.finished, strict=True))
        ]
        return 200, {"choices": choices[::-1]}  # in any order

    def top(self, policy, body):
        hidden = policy.hidden(assemble([body["prompt"]], [[3]], policy.pad))
        scale = body["temperature"] or 1.0 if self.mode == "processed_logprobs" else 1.0
        return {"token_id:0": (policy.logits(hidden) / scale).log_softmax(-1).max().item()}


def error(code, message):
    return {"error": {"message": message, "type": "BadRequestError", "code": code}}
