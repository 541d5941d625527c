"""``metrics.json`` of a stage: the last value of everything its module logged."""

from __future__ import annotations

import math
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from rlaif_pl.data.metric_files import write_metrics


class MetricsFile(Callback):
    """Writes ``<default_root_dir>/metrics.json`` at the end of a fit or validation.

    Values come from ``trainer.callback_metrics``. One that is not finite is written as ``null``,
    with a warning, so that the report can say it was not measured.
    """

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        values = trainer.callback_metrics  # on every rank: to compute them may be a collective
        if not trainer.is_global_zero:
            return
        metrics = {name: value.item() for name, value in values.items()}
        missing = [name for name, value in metrics.items() if not math.isfinite(value)]
        if missing:
            rank_zero_warn(f"not finite at the end, written as null: {', '.join(missing)}")
        path = Path(trainer.default_root_dir) / "metrics.json"
        write_metrics(path, metrics, may_be_missing=missing)
