"""A module of three weights that logs, samples and can be made to break."""

from __future__ import annotations

import logging

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader


class TinyModule(LightningModule):
    """Regression on ones; at step ``breaks_at`` the loss or the gradient becomes NaN."""

    def __init__(self, breaks_at: int = -1, what: str = "loss") -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.frozen = torch.nn.Parameter(torch.zeros(7), requires_grad=False)
        self.breaks_at = breaks_at
        self.what = what
        self.latest_samples: list[tuple[int, str, str, float]] = []

    def training_step(self, batch):
        loss = (self.layer(batch) - 1).square().mean()
        if self.global_step == self.breaks_at:
            if self.what == "loss":
                loss = loss * float("nan")
            else:
                self.layer.weight.register_hook(lambda grad: grad * float("inf"))
        self.log("toy/train_loss", loss)
        self.latest_samples = [
            (self.global_step + 1, f'post "{self.global_step}",\nnew line', f"reply {n}", 0.1 * n)
            for n in range(3)
        ]
        return loss

    def validation_step(self, batch):
        self.log("toy/val_loss", (self.layer(batch) - 1).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


@pytest.fixture
def tiny() -> type[TinyModule]:
    return TinyModule


@pytest.fixture
def fit(tmp_path):
    """Fit a module in ``tmp_path``; returns the trainer."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)

    def fit(module=None, *, callbacks=(), logger=False, ckpt_path=None, **options) -> Trainer:
        options = {
            "max_steps": 4,
            "log_every_n_steps": 1,
            "enable_checkpointing": False,
            "num_sanity_val_steps": 0,
            **options,
        }
        trainer = Trainer(
            default_root_dir=tmp_path,
            accelerator="cpu",
            callbacks=list(callbacks),
            logger=logger,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )
        data = DataLoader(torch.ones(8, 2), batch_size=2)
        trainer.fit(module or TinyModule(), data, data, ckpt_path=ckpt_path)
        return trainer

    return fit
