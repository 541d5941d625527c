"""Write the trained model as a plain transformers folder when a fit is over."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from typing_extensions import override

from rlaif_pl.errors import one_of
from rlaif_pl.models.adapter_export import Form
from rlaif_pl.models.model_folder import check_place
from rlaif_pl.training.base import TrainableModule


class ExportModel(Callback):
    """Calls the module's ``export`` at the end of a fit, on rank 0; looks before it whether it can.

    Under ``fast_dev_run`` it only looks.

    Args:
        folder: Where to; a relative path is below ``trainer.default_root_dir``. An earlier model there
            is replaced; anything else is refused before training.
        form: ``whole`` folds adapters in; ``adapter`` writes a policy's adapters alone, as a PEFT
            folder, which is megabytes and may stand wherever a model is named.
    """

    def __init__(self, folder: str = "model", form: Form = "whole") -> None:
        one_of(Form, form=form)
        self.folder, self.form = folder, form

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.check(trainer, pl_module)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.interrupted or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        module = _exporter(pl_module)
        module.gather_weights()
        if trainer.is_global_zero:
            rank_zero_info(f"Model written to {module.export(self.target(trainer), self.form)}")

    def target(self, trainer: Trainer) -> Path:
        """Where the model will be written."""
        return Path(trainer.default_root_dir) / self.folder

    def check(self, trainer: Trainer, pl_module: LightningModule) -> int:
        """Refuse, before training, an export that would fail after it; bytes that it will take."""
        size = _exporter(pl_module).check_export(self.form)
        target = self.target(trainer)
        root, place = Path(trainer.default_root_dir).resolve(), target.resolve()
        if place in (root, *root.parents, root / "checkpoints"):
            raise ValueError(
                f"ExportModel: expected a folder of the model's own, got {target}, where the run "
                "writes its records or checkpoints; name another (default_callbacks.export_to)"
            )
        try:
            check_place(target)
        except ValueError as error:
            raise ValueError(f"ExportModel: {error}") from error
        return size


def _exporter(module: LightningModule) -> TrainableModule:
    if not isinstance(module, TrainableModule):
        raise ValueError(
            f"ExportModel: expected a module with export(folder), got {type(module).__name__}; leave "
            "it out of trainer.callbacks"
        )
    return module
