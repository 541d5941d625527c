"""What the three LightningModules share: one optimizer, lean checkpoints, an export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from typing_extensions import override


class TrainableModule(LightningModule):
    """A LightningModule that checkpoints only what it trains.

    Frozen weights come from the named backbone, so a checkpoint of adapters is megabytes.

    Args:
        optimizer: Builds the optimizer from parameters.
        scheduler: Builds the learning-rate schedule, stepped every batch.
    """

    def __init__(self, optimizer: OptimizerCallable, scheduler: LRSchedulerCallable) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.strict_loading = False

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that are trained, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    @override
    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.trained().values())
        schedule = {"scheduler": self.scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = self.trained().keys()
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: state[name] for name in state if name in kept}

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        missing = self.trained().keys() - checkpoint["state_dict"].keys()
        if missing:
            raise ValueError(
                f"expected a checkpoint of this configuration, it lacks {sorted(missing)[:3]}; "
                "use the config the checkpoint was written with"
            )

    @override
    def on_train_epoch_start(self) -> None:
        self.eval()  # dropout stays off in every stage: the log-ratio must be 0 at the first step
        self.train_checkpointed_layers()

    def train_checkpointed_layers(self) -> None:
        """Put layers that recompute activations in train mode: elsewhere transformers ignores it."""
        for module in self.modules():
            if getattr(module, "gradient_checkpointing", False):
                module.train()

    def export(self, folder: Path) -> Path:
        """Write the trained model as a plain transformers folder.

        Args:
            folder: Where to.

        Returns:
            The folder.
        """
        raise TypeError(f"{type(self).__name__} has nothing to export to {folder}")

    def example_device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device
