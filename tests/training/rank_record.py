"""Callback for tests with several processes: what each rank ended with (no test in here)."""

from pathlib import Path

import torch
from lightning.pytorch import Callback


class RankRecord(Callback):
    """Writes trained weights, last gradients and metrics to ``<default_root_dir>/rank<N>.pt``."""

    def __init__(self) -> None:
        self.gradients: dict[str, torch.Tensor] = {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):  # noqa: ARG002
        self.gradients = {name: p.grad.clone() for name, p in pl_module.trained().items()}

    def on_fit_end(self, trainer, pl_module):
        values = {
            "weights": {name: p.detach().clone() for name, p in pl_module.trained().items()},
            "gradients": self.gradients,
            "metrics": {name: v.item() for name, v in trainer.callback_metrics.items()},
            "ranks": trainer.world_size,
        }
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(values, folder / f"rank{trainer.global_rank}.pt")
