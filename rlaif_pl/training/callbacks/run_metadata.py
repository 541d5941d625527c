"""What a run ran with: versions, device, threads, op backends, parameters."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from rlaif_pl.data.metric_files import write_json
from rlaif_pl.ops import backend_of
from rlaif_pl.ops._library import OPS

PACKAGE = Path(__file__).resolve().parents[2]


class RunMetadata(Callback):
    """Writes ``<default_root_dir>/run_facts.json`` when a fit starts and prints one line of it."""

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        facts = gather(trainer, pl_module, datetime.now(UTC))
        write_json(Path(trainer.default_root_dir) / "run_facts.json", facts)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams({"run_facts": facts})
        ops = ", ".join(f"{name} {backend}" for name, backend in facts["ops"].items())
        trained, parameters = facts["trainable_parameters"], facts["parameters"]
        rank_zero_info(
            f"rlaif_pl {facts['rlaif_pl']} on {facts['device']}, {facts['ranks']} rank(s) of "
            f"{facts['threads']} thread(s); ops: {ops}; trains {trained:,} of {parameters:,} "
            f"parameters ({trained / max(parameters, 1):.1%})"
        )


def gather(trainer: Trainer, module: LightningModule, now: datetime) -> dict[str, Any]:
    """Collect the facts of a run that starts now, its strategy set up."""
    device = trainer.strategy.root_device
    parameters = list(module.parameters())
    seed = os.environ.get("PL_GLOBAL_SEED")
    return {
        "rlaif_pl": version_of("rlaif_pl"),
        "commit": commit_of(PACKAGE.parent),  # `+changes` where files differ from it
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": version_of("lightning"),
        "transformers": version_of("transformers"),
        "device": device_name(device),  # of rank 0
        "ranks": trainer.world_size,
        "strategy": type(trainer.strategy).__name__,
        "precision": str(trainer.precision),
        "threads": torch.get_num_threads(),  # of one operator
        "ops": {name: backend_of(name, device.type) for name in OPS},  # compiled or reference
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "parameters": sum(p.numel() for p in parameters),  # a shared weight counts once
        "seed": int(seed) if seed else None,
        "started": now.isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
    }


def version_of(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit_of(folder: Path) -> str | None:
    """Return the commit checked out in a folder; None without a checkout or without git."""
    if not (folder / ".git").exists():
        return None
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return None
    return commit + ("+changes" if _git(folder, "status", "--porcelain", "-uno") else "")


def device_name(device: torch.device) -> str:
    """Return the device with the name of its hardware."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()}, {os.cpu_count()} cores)"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
