"""``history.csv``: every metric a run logs, one row a step, across interruptions.

Lightning's CSVLogger deletes the file of an earlier attempt, or with automatic versions starts a
new one beside it, so that a resumed run has no single history. Here a row that is logged again (a
resumed run repeats the steps after its last checkpoint) takes the place of the old one.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from rlaif_pl.data.csv_rows import Cell, read_table, write_table
from rlaif_pl.data.disk import replace_end
from rlaif_pl.tables import csv_text

STEP = "step"
HISTORY = "history.csv"


class HistoryFile(Logger):
    """Logger that writes ``<save_dir>/history.csv``.

    Train and validation metrics of one step share a row; what was not logged at a step is empty.
    Each call leaves the program before it returns, so a killed process loses nothing.

    Args:
        save_dir: Folder of the file; made if need be.
    """

    def __init__(self, save_dir: str | Path) -> None:
        super().__init__()
        self.folder = Path(save_dir)
        self.path = self.folder / HISTORY
        self._columns: list[str] | None = None  # None until the file has been looked at
        self._last: dict[str, Cell] = {}  # last row of the file
        self._offset = 0  # where that row starts, in bytes

    @property
    @override
    def name(self) -> str:
        # Name and version are empty so that ModelCheckpoint saves in <save_dir>/checkpoints.
        return ""

    @property
    @override
    def version(self) -> str:
        return ""

    @property
    @override
    def save_dir(self) -> str:
        return str(self.folder)

    @override
    @rank_zero_only
    def log_hyperparams(self, params: Namespace | dict[str, object]) -> None:  # type: ignore[override]
        """Leave them out: the stage's config.yaml holds them."""

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write metrics of a step, by default one after the last row's."""
        if self._columns is None:
            self._load()
        last = int(self._last.get(STEP, -1))
        step = last + 1 if step is None else step
        values: dict[str, Cell] = {STEP: step, **{k: float(v) for k, v in metrics.items()}}
        if step < last or not set(values) <= set(self._columns or ()):
            self._merge(values)
            return
        row = self._last | values if step == last else values
        data = csv_text([row], self._columns, header=False).encode()
        self._offset = replace_end(self.path, data, self._offset if step == last else None)
        self._last = row

    def _merge(self, values: dict[str, Cell]) -> None:
        """Rewrite the file with the values laid over the row of their step."""
        columns, rows = read_table(self.path)
        columns = list(dict.fromkeys([STEP, *columns, *values]))
        by_step: dict[int, dict[str, Cell]] = {int(row[STEP]): dict(row) for row in rows}
        step = int(values[STEP])
        by_step[step] = {**by_step.get(step, {}), **values}
        write_table(self.path, columns, [by_step[key] for key in sorted(by_step)])
        self._load()

    def _load(self) -> None:
        """Take over the file as it is, without a row that was cut short."""
        columns, rows = read_table(self.path)
        if columns:
            write_table(self.path, columns, rows)
        self._columns = columns
        self._last = dict(rows[-1]) if rows else {}
        self._offset = self.path.stat().st_size if columns else 0
        if rows:
            self._offset -= len(csv_text(rows[-1:], columns, header=False).encode())
