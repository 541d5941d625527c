"""The best weights of a run so far, in one checkpoint, and how to go back to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from rlaif_pl.training.checkpoints import read_checkpoint

BEST_FILE = "checkpoints/before_alarm.ckpt"


@dataclass
class BestWeights:
    """Keeps the checkpoint of the highest value offered."""

    value: float | None = None  # highest value so far; None before the first
    step: int = -1  # optimizer step it was measured at

    def offer(self, trainer: Trainer, step: int, value: float) -> bool:
        """Save the weights if the value is the highest; on every rank. Returns whether it is."""
        if self.value is not None and value <= self.value:
            return False
        self.value, self.step = value, step
        trainer.save_checkpoint(_path(trainer), weights_only=True)
        return True

    def restore(self, trainer: Trainer) -> Path | None:
        """Load the kept weights into the module that is trained; None where none were kept."""
        if self.value is None:
            return None
        path = _path(trainer)
        trainer.strategy.load_model_state_dict(read_checkpoint(path), strict=False)
        return path

    def line(self) -> str:
        """Say what is kept."""
        if self.value is None:
            return "no weights were measured before, so the last ones stay"
        return f"the best weights are those of step {self.step} ({self.value:.4g}), in {BEST_FILE}"

    def state_dict(self) -> dict[str, Any]:
        """Return value and step."""
        return {"value": self.value, "step": self.step, "file": BEST_FILE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over value and step."""
        self.value, self.step = state["value"], state["step"]


def _path(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / BEST_FILE
