"""Records of a run in its folder: last metrics, what it ran with, samples for people to read."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from rlaif_pl.data.csv_rows import Cell, read_table, write_table
from rlaif_pl.data.disk import replace_end
from rlaif_pl.data.metric_files import write_json, write_metrics
from rlaif_pl.data.sources import is_sensitive
from rlaif_pl.errors import at_least
from rlaif_pl.ops import backend_of
from rlaif_pl.ops._library import OPS
from rlaif_pl.tables import csv_text
from rlaif_pl.text import concealed

KEPT = "rlaif_pl_metrics"  # key of a checkpoint
PACKAGE = Path(__file__).resolve().parents[2]
COLUMNS = ("step", "prompt", "response", "reward")  # the number last: see read_table


def _place(trainer: Trainer, name: str) -> Path:
    return Path(trainer.default_root_dir) / name


class MetricsFile(Callback):
    """Writes ``<default_root_dir>/metrics.json`` at the end of a fit or validation that is no try.

    Values come from ``trainer.callback_metrics``, and from the checkpoint where a fit that was resumed
    did not log them again. One that is not finite is written as ``null``, with a warning.
    """

    def __init__(self) -> None:
        self._kept: dict[str, float] = {}  # of the checkpoint
        self._has_ended = False  # whether this fit has come to the end of its training

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._kept, self._has_ended = {}, False

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._has_ended = True
        self._write(trainer)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._has_ended or not self._kept or trainer.interrupted:
            return
        path, checkpoint = _place(trainer, "metrics.json"), Path(str(trainer.ckpt_path))
        both = path.exists() and checkpoint.exists()
        if both and path.stat().st_mtime > checkpoint.stat().st_mtime:
            return  # the fit had come to its end before
        rank_zero_warn(
            f"{checkpoint} is of the last step, so nothing was trained or validated: {path.name} holds "
            "what was logged until it was saved"
        )
        self._write(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._write(trainer)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[KEPT] = self._values(trainer)

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._kept = checkpoint.get(KEPT, {})

    def _values(self, trainer: Trainer) -> dict[str, float]:
        """Return the last value of everything; on every rank: to compute them may be a collective."""
        logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
        return {**self._kept, **logged}

    def _write(self, trainer: Trainer) -> None:
        metrics = self._values(trainer)
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        missing = [name for name, value in metrics.items() if not math.isfinite(value)]
        if missing:
            rank_zero_warn(f"not finite at the end, written as null: {', '.join(missing)}")
        write_metrics(_place(trainer, "metrics.json"), metrics, may_be_missing=missing)


class RunMetadata(Callback):
    """Writes ``<default_root_dir>/run_facts.json`` when a fit starts and prints one line of it."""

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        facts = gather(trainer, pl_module, datetime.now(UTC))
        write_json(_place(trainer, "run_facts.json"), facts)
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
    hardware = f"{platform.machine()}, {os.cpu_count()} cores"
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    return {
        "rlaif_pl": version_of("rlaif_pl"),
        "commit": commit_of(PACKAGE.parent),  # `+changes` where files differ from it
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": version_of("lightning"),
        "transformers": version_of("transformers"),
        "device": f"{device} ({hardware})",  # of rank 0
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
    has_changes = commit and _git(folder, "status", "--porcelain", "-uno")
    return f"{commit}+changes" if has_changes else commit or None


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


class SampleTable(Callback):
    """Writes samples to ``<default_root_dir>/samples.csv`` and to W&B where that is used.

    The module offers them as ``latest_samples``, a list of ``(step, prompt, response, reward)``. A
    resumed run drops the rows after its checkpoint and writes them again.

    Args:
        every_n_steps: Optimizer steps between two entries, at least 1; the first step is one.
        num_samples: Samples an entry, at least 1: the first ones, not a choice.
        show_text: Whether texts are written as they are or as hashes; None shows them unless the data
            module's source is sensitive (harmful requests, see ``data.sources.is_sensitive``).
    """

    def __init__(
        self, every_n_steps: int = 10, num_samples: int = 4, show_text: bool | None = None
    ) -> None:
        counts = {"every_n_steps": every_n_steps, "num_samples": num_samples}
        at_least(1, **{f"SampleTable.{name}": count for name, count in counts.items()})
        self.every_n_steps = every_n_steps
        self.num_samples = num_samples
        self.show_text = show_text
        self._last_step = -1
        self._rows = 0  # in the file; kept in checkpoints

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"rows": self._rows}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rows = state_dict["rows"]

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # By number and not by step: modules count theirs from before or after an update.
        self._last_step = trainer.global_step
        path = _place(trainer, "samples.csv")
        if trainer.is_global_zero and path.is_file():
            rows = read_table(path).rows[: self._rows]
            write_table(path, COLUMNS, rows)
            self._rows = len(rows)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        step = trainer.global_step
        is_due = (step - 1) % self.every_n_steps == 0 and step != self._last_step
        if not is_due or not trainer.is_global_zero:
            return
        self._last_step = step
        samples = getattr(pl_module, "latest_samples", None) or []
        if not samples:
            rank_zero_warn(
                f"SampleTable: {type(pl_module).__name__} offers no latest_samples at step {step}; "
                "leave this callback out for modules that do not sample"
            )
            return
        # Python numbers, whatever they came as
        shown = [(int(n), one, two, float(r)) for n, one, two, r in samples[: self.num_samples]]
        source = getattr(getattr(trainer, "datamodule", None), "source", None)
        is_shown = not is_sensitive(source)
        if not (is_shown if self.show_text is None else self.show_text):
            shown = [(n, concealed(one), concealed(two), reward) for n, one, two, reward in shown]
        self._write(trainer, shown)

    def _write(self, trainer: Trainer, samples: Sequence[Sequence[Cell]]) -> None:
        path = _place(trainer, "samples.csv")
        if not path.is_file():
            write_table(path, COLUMNS, [])
        rows: list[dict[str, Cell]] = [dict(zip(COLUMNS, s, strict=True)) for s in samples]
        replace_end(path, csv_text(rows, COLUMNS, header=False).encode())
        self._rows += len(rows)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                data = [list(sample) for sample in samples]
                logger.log_table("samples", list(COLUMNS), data, step=trainer.global_step)
