"""Callback for tests with several processes: what each rank ended with (no test in here)."""

from pathlib import Path

import torch
from lightning.pytorch import Callback
from torch.distributed.tensor import DTensor


class RankRecord(Callback):
    """Writes trained weights, last gradients, losses and metrics to ``<root>/rank<N>.pt``."""

    def __init__(self) -> None:
        self.gradients: dict[str, torch.Tensor] = {}
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):  # noqa: ARG002
        self.losses.append(float(trainer.strategy.reduce(outputs["loss"].clone())))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):  # noqa: ARG002
        self.gradients = {name: whole(p.grad) for name, p in pl_module.trained().items()}

    def on_fit_end(self, trainer, pl_module):
        values = {
            "weights": {name: whole(p.detach()) for name, p in pl_module.trained().items()},
            "gradients": self.gradients,
            "losses": self.losses,
            "metrics": {name: v.item() for name, v in trainer.callback_metrics.items()},
            "ranks": trainer.world_size,
        }
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(values, folder / f"rank{trainer.global_rank}.pt")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()
