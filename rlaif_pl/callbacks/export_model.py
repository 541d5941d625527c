"""Write the trained model as a plain transformers folder when a fit is over."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from typing_extensions import override

from rlaif_pl.training.base import TrainableModule


class ExportModel(Callback):
    """Calls the module's ``export`` at the end of a fit, on rank 0.

    Args:
        folder: Where to; a relative path is below ``trainer.default_root_dir``.
    """

    def __init__(self, folder: str = "model") -> None:
        self.folder = folder

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, TrainableModule):
            raise TypeError(
                f"ExportModel: expected a module with export(folder), got {type(pl_module).__name__}"
            )
        if trainer.is_global_zero and not trainer.interrupted:
            target = pl_module.export(Path(trainer.default_root_dir) / self.folder)
            rank_zero_info(f"Model written to {target}")
