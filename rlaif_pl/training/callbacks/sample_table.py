"""Responses of the policy while it trains, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from rlaif_pl.data.csv_rows import Cell, read_table, write_table
from rlaif_pl.data.disk import replace_end
from rlaif_pl.data.sources import DataSource, is_sensitive
from rlaif_pl.tables import csv_text
from rlaif_pl.text import concealed

COLUMNS = ("step", "prompt", "response", "reward")  # the number last: see read_table
Sample = tuple[int, str, str, float]


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
        for name, value in (("every_n_steps", every_n_steps), ("num_samples", num_samples)):
            if value < 1:
                raise ValueError(f"SampleTable: {name} must be at least 1, got {value}")
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
        path = _path(trainer)
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
        samples: Sequence[Sample] = getattr(pl_module, "latest_samples", None) or []
        if not samples:
            rank_zero_warn(
                f"SampleTable: {type(pl_module).__name__} offers no latest_samples at step {step}; "
                "leave this callback out for modules that do not sample"
            )
            return
        # Python numbers, whatever they came as
        shown = [(int(n), one, two, float(r)) for n, one, two, r in samples[: self.num_samples]]
        source = getattr(getattr(trainer, "datamodule", None), "source", None)
        is_shown = not (isinstance(source, DataSource | str) and is_sensitive(source))
        if not (is_shown if self.show_text is None else self.show_text):
            shown = [(n, concealed(one), concealed(two), reward) for n, one, two, reward in shown]
        self._write(trainer, shown)

    def _write(self, trainer: Trainer, samples: Sequence[Sample]) -> None:
        path = _path(trainer)
        if not path.is_file():
            write_table(path, COLUMNS, [])
        rows: list[dict[str, Cell]] = [dict(zip(COLUMNS, s, strict=True)) for s in samples]
        replace_end(path, csv_text(rows, COLUMNS, header=False).encode())
        self._rows += len(rows)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                data = [list(sample) for sample in samples]
                logger.log_table("samples", list(COLUMNS), data, step=trainer.global_step)


def _path(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "samples.csv"
