"""What a vLLM server can do, read from its routes and tried; and what of it a run needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.rl.vllm.client import Client, RefusedError

LogprobsMode = Literal["raw_logprobs", "processed_logprobs", "raw_logits", "processed_logits"]
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that --max-lora-rank takes
PROBE = (1, 2, 3)


@dataclass(frozen=True)
class ServerFacts:
    """What is known of one server; None where it does not say."""

    url: str  # where it listens
    model: str  # name it serves its model by
    root: str | None = None  # folder or hub name of that model
    version: str | None = None  # its version
    max_model_len: int | None = None  # longest text in tokens
    has_adapter_route: bool = False  # whether adapters can be loaded while it runs
    has_adapters: bool | None = None  # whether it was started for adapters
    max_rank: int | None = None  # highest rank of adapters
    has_dev_routes: bool = False  # whether it takes whole weights and tells its settings
    logprobs_mode: str | None = None  # of which distribution log-probabilities are
    dtype: str | None = None  # type it computes in
    replicas: int | None = None  # data-parallel copies of the model behind the address
    # whether a request with a seed may end it (a CPU with chunked prefill)
    seed_kills: bool | None = None
    # whether it computes on a CPU, where layers keep packed copies of their weights
    is_cpu: bool | None = None
    transfer: str | None = None  # how it was started to be sent weights without a folder ("nccl")

    def rows(self) -> list[tuple[str, str]]:
        """Say it, a line a fact."""
        adapters = "no: set VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora"
        if self.has_adapter_route and self.has_adapters is not False:
            adapters = f"yes, up to rank {self.max_rank or 'unknown (dev routes tell)'}"
        whole = "yes" if self.has_dev_routes else "no: set VLLM_SERVER_DEV_MODE=1"
        seeds = {None: "unknown", False: "yes"}.get(
            self.seed_kills, "no: --no-enable-chunked-prefill, or rollout seeded: false"
        )
        return [
            ("version", self.version or "unknown"),
            ("model", f"{self.model} ({self.root}), {self.dtype or 'type unknown'}"),
            ("longest text", f"{self.max_model_len} tokens"),
            ("adapters while it runs", adapters),
            ("whole weights while it runs", whole),
            ("weights without a folder", self.transfer or "no: --weight-transfer-config"),
            ("log-probabilities", self.logprobs_mode or "unknown"),
            ("replicas", str(self.replicas or "unknown")),
            ("seeds", seeds),
        ]


def read_facts(client: Client, model: str | None = None) -> ServerFacts:
    """Ask a server what it is and whether it serves ``model`` (None: any); changes nothing on it."""
    served = client.get("/v1/models").get("data") or []
    bases = [each for each in served if not each.get("parent")]
    found = next((e for e in bases if model in (None, e.get("id"))), None)
    if found is None:
        names = ", ".join(str(each.get("id")) for each in bases) or "none"
        raise ValueError(f"expected {client.url} to serve {model or 'a model'}, it serves {names}")
    # settings, where the server was started to tell them
    told = _optional(client, "/server_info?config_format=json").get("vllm_config")
    told = told if isinstance(told, dict) else {}
    return ServerFacts(
        url=client.url,
        model=str(found["id"]),
        root=found.get("root"),
        version=_optional(client, "/version").get("version"),
        max_model_len=found.get("max_model_len"),
        has_adapter_route=_has_adapter_route(client),
        has_dev_routes=bool(told),
        **_from_settings(told),
    )


def measured_mode(client: Client, model: str) -> LogprobsMode:
    """Find out by trying whether the likeliest token's log-probability follows the temperature."""

    def top(temperature: float) -> float:
        body = {"model": model, "prompt": list(PROBE), "max_tokens": 1, "temperature": temperature}
        body |= {"logprobs": 1, "top_p": 1.0, "top_k": -1, "min_p": 0.0}
        choice = client.post("/v1/completions", body)["choices"][0]
        return float(max((choice["logprobs"]["top_logprobs"] or [{}])[0].values()))

    return "raw_logprobs" if abs(top(1.0) - top(0.5)) < 1e-3 else "processed_logprobs"


def check_sampling(
    facts: ServerFacts, params: SamplingParams, *, for_training: bool, seeded: bool
) -> None:
    """Refuse a server that would draw by old weights, tell of another distribution, or end."""
    if facts.replicas is not None and facts.replicas > 1:
        raise ValueError(
            f"expected one copy of the model behind {facts.url}, got {facts.replicas}: an update "
            "reaches one of them and the others answer with old weights; start it with "
            "--data-parallel-size 1, several times, and name each in base_url"
        )
    shapes = params.temperature != 1 or params.filters
    if for_training and shapes and facts.logprobs_mode != "processed_logprobs":
        what = f"temperature {params.temperature}" + (" with filters" if params.filters else "")
        raise ValueError(
            f"expected log-probabilities of the distribution that is drawn from at {what}, "
            f"{facts.url} gives {facts.logprobs_mode}; start it with "
            "--logprobs-mode processed_logprobs, or set sampling.temperature to 1 without top_k, "
            "top_p and min_p"
        )
    if seeded and facts.seed_kills:
        raise ValueError(
            f"expected {facts.url} to survive requests with a seed, it runs on a CPU with chunked "
            "prefill and would end; start it with --no-enable-chunked-prefill "
            "--max-num-batched-tokens 8192, or set rollout.init_args.seeded to false"
        )


def check_adapters(facts: ServerFacts, rank: int) -> None:
    """Refuse a server that cannot load adapters of a rank."""
    least = next((known for known in RANKS if known >= rank), rank)
    if not facts.has_adapter_route:
        raise ValueError(
            f"expected {facts.url} to load adapters while it runs, it knows no such route; start it "
            "with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment and --enable-lora"
        )
    if facts.has_adapters is False:
        raise ValueError(
            f"expected {facts.url} to be started for adapters, it is not; add --enable-lora "
            f"--max-lora-rank {least} --max-loras 2"
        )
    if facts.max_rank is not None and rank > facts.max_rank:
        raise ValueError(
            f"expected {facts.url} to take adapters of rank {rank}, it takes up to {facts.max_rank}; "
            f"start it with --max-lora-rank {least}"
        )


def check_whole(facts: ServerFacts, *, is_tied: bool) -> None:
    """Refuse a server that cannot be given whole weights."""
    if not facts.has_dev_routes:
        raise ValueError(
            f"expected {facts.url} to take whole weights while it runs, it knows no such route; start "
            "it with VLLM_SERVER_DEV_MODE=1 in its environment, or train adapters (lora)"
        )
    if facts.has_adapters:  # reload_weights then leaves layers wrapped for adapters wrong
        raise ValueError(
            f"expected {facts.url} to be started without --enable-lora to take whole weights, which it "
            "reads wrongly with it; leave the flag out, or train adapters (lora)"
        )
    if facts.is_cpu and is_tied:  # vLLM 0.32 packs a copy there, which new weights do not reach
        raise ValueError(
            f"expected {facts.url} to take whole weights while it runs, it computes on a CPU and would "
            "keep its old output embedding, which this model ties to the input's; train adapters "
            "(lora), or serve from a GPU"
        )


def _optional(client: Client, path: str) -> dict[str, Any]:
    try:
        return client.get(path)
    except RefusedError:
        return {}


def _has_adapter_route(client: Client) -> bool:
    """Unload an adapter that is not there: only a server with the route names it."""
    try:
        client.post("/v1/unload_lora_adapter", {"lora_name": "rlaif-pl-none"})
    except RefusedError as error:
        return error.is_route
    return True


def _from_settings(told: dict[str, Any]) -> dict[str, Any]:
    if not told:
        return {}

    def setting(group: str, name: str) -> Any:
        return (told.get(group) or {}).get(name)

    is_cpu = "cpu" in str(setting("device_config", "device"))
    return {
        "has_adapters": told.get("lora_config") is not None,
        "max_rank": setting("lora_config", "max_lora_rank"),
        "logprobs_mode": setting("model_config", "logprobs_mode"),
        "dtype": str(setting("model_config", "dtype") or "").removeprefix("torch.") or None,
        "replicas": setting("parallel_config", "data_parallel_size"),
        "seed_kills": is_cpu and bool(setting("scheduler_config", "enable_chunked_prefill")),
        "is_cpu": is_cpu,
        "transfer": setting("weight_transfer_config", "backend"),
    }
