"""``doctor``: what works on this machine, and what to do about what does not."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from rich.console import Console

from rlaif_pl import ops
from rlaif_pl.config_paths import config_paths
from rlaif_pl.evaluation.judges import minilm_folder
from rlaif_pl.models.backbone import resolve_dtype
from rlaif_pl.models.device import devices_here, on_device, resolve_device
from rlaif_pl.models.embedded import verify_embedded_model
from rlaif_pl.models.policy import BackboneOptions, load_policy
from rlaif_pl.rl.vllm.client import Client
from rlaif_pl.rl.vllm.facts import measured_mode, read_facts
from rlaif_pl.tables import Column, Table


@on_device
def doctor(
    model: str | None = None, dtype: str = "auto", device: str = "auto", server: str | None = None
) -> int:
    """Check compiled ops, embedded models, configs and devices; exit 1 where a part is missing.

    Args:
        model: Also load this model, a folder or hub name, and say which way it runs and why.
        dtype: Type of its weights, as ``backbone.dtype``.
        device: Where it computes: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:N`` or
            ``mps``.
        server: Also ask a vLLM server, by its address, what it can do.
    """
    checks: dict[str, Callable[[], str]] = {
        "python and torch": lambda: f"python {sys.version.split()[0]}, torch {torch.__version__}",
        "compiled ops": compiled_ops,
        "embedded model": lambda: (
            f"sha256 {verify_embedded_model().weights_sha256[:16]}... verified"
        ),
        "independent judge": lambda: str(minilm_folder()),
        "configs": lambda: str(config_paths()),
        "device": devices,
        "disk": disk,
    }
    if model is not None:
        checks[f"model {model}"] = lambda: way_of(model, dtype, device)
    if server is not None:
        checks[f"server {server}"] = lambda: server_facts(server)
    rows, status = [], 0
    for name, check in checks.items():
        try:
            rows.append([name, "ok", check()])
        except (OSError, ValueError, RuntimeError) as error:
            status = 1
            rows.append([name, "MISSING", str(error)])
    columns = [Column(title, align="left") for title in ("part", "", "what was found")]
    Console().print(Table("", columns, rows).rich())
    return status


def compiled_ops() -> str:
    """Backend of each op on the CPU, and on the GPU that is used; the reference is slow but right."""
    kinds = ["cpu"] + ["cuda"] * (resolve_device().type == "cuda")
    found = []
    for kind in kinds:
        backends = {name: ops.backend_of(name, kind) for name in ("gae", "pairwise_ce_fwd")}
        found.append(f"{kind}: {backends}")
        if "reference" in backends.values():
            needs = "a C++ compiler" if kind == "cpu" else "nvcc, and RLAIF_PL_BUILD=cuda"
            raise RuntimeError(
                f"{found[-1]}: the PyTorch reference is used; for the kernels run "
                f"`pip install --no-build-isolation -e .` with {needs}"
            )
    return ", ".join(found)


def devices() -> str:
    """Devices that commands can be given, and the type `dtype: auto` takes on that of `auto`."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA GPU"
    here = f"{', '.join(devices_here())} ({name})"
    nvcc = "nvcc found" if shutil.which("nvcc") else "no nvcc"
    wandb = "W&B installed" if importlib.util.find_spec("wandb") else "no W&B"
    auto = f"auto = {resolve_device()} in {resolve_dtype('auto')}"
    if resolve_device().type == "cuda":
        auto += " (models whose dtype is left out: float32, slow here; set dtype: auto)"
    return f"{here}, {torch.get_num_threads()} threads, {auto}, {nvcc}, {wandb}"


def way_of(model: str, dtype: str, device: str) -> str:
    """Which way a model's texts are run here, found out by trying it against its own noise."""
    options = BackboneOptions(model, dtype=dtype)  # type: ignore[arg-type]
    policy = load_policy(options).to(resolve_device(device))
    found = policy.top.capabilities
    place = f"{policy.device}, {str(resolve_dtype(options.dtype)).removeprefix('torch.')}"
    if found.packs:
        steps = "one token a text over one copy of each prompt's keys"
        return f"packed without padding ({place}); samples: {steps if found.decodes else 'whole'}"
    way = "padded batches" if found.pads else "texts of one length"
    return f"{way} ({place}), each prompt once a response: {found.reason}"


def server_facts(url: str) -> str:
    """What a vLLM server can do for rollouts, a line a fact; nothing on it is changed."""
    client = Client(url, timeout_s=60.0)
    found = read_facts(client)
    if found.logprobs_mode is None:
        found = replace(found, logprobs_mode=measured_mode(client, found.model))
    return "\n".join(f"{name}: {value}" for name, value in found.rows())


def disk() -> str:
    """Free space where runs are written."""
    free = shutil.disk_usage(".").free / 2**30
    if free < 2:
        raise OSError(f"{free:.1f} GiB free here; a quickstart run needs about 3")
    return f"{free:.0f} GiB free here"
