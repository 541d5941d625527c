"""``metrics.json`` of a stage: the last value of everything its module logged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from rlaif_pl.data.metric_files import write_metrics

KEPT = "rlaif_pl_metrics"  # key of a checkpoint


class MetricsFile(Callback):
    """Writes ``<default_root_dir>/metrics.json`` at the end of a fit or validation.

    Values come from ``trainer.callback_metrics``, and from the checkpoint where a fit that was resumed
    did not log them again. One that is not finite is written as ``null``, with a warning, so that the
    report can say it was not measured.
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
        path, checkpoint = _path(trainer), Path(str(trainer.ckpt_path))
        if (
            path.exists()
            and checkpoint.exists()
            and path.stat().st_mtime > checkpoint.stat().st_mtime
        ):
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
        if not trainer.is_global_zero:
            return
        missing = [name for name, value in metrics.items() if not math.isfinite(value)]
        if missing:
            rank_zero_warn(f"not finite at the end, written as null: {', '.join(missing)}")
        write_metrics(_path(trainer), metrics, may_be_missing=missing)


def _path(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "metrics.json"
