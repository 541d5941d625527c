"""The loggers of a run: its history file, and Weights & Biases, offline without an account."""

from __future__ import annotations

import netrc
import os
import secrets
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import wandb
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from rlaif_pl.data.csv_rows import Cell, read_table, write_table
from rlaif_pl.data.disk import check_writable, replace_end
from rlaif_pl.data.metric_files import write_text
from rlaif_pl.tables import csv_text

STEP = "step"
HISTORY = "history.csv"
WANDB_ID = "wandb_id.txt"
WANDB_HOST = "https://api.wandb.ai"
# Variables that say where W&B keeps its own files, and its defaults below the home folder.
WANDB_FOLDERS = {
    "WANDB_CACHE_DIR": ".cache/wandb",
    "WANDB_CONFIG_DIR": ".config/wandb",
    "WANDB_DATA_DIR": ".local/share/wandb",
}
Mode = Literal["online", "offline", "disabled"]


class HistoryFile(Logger):
    """Logger that writes ``<save_dir>/history.csv``: every metric, a row a step, across interruptions.

    Train and validation metrics of one step share a row; what was not logged at a step is empty. A row
    that is logged again (a resumed run repeats the steps after its last checkpoint) takes the place of
    the old one, where Lightning's CSVLogger would begin anew. A killed process loses nothing.

    Args:
        save_dir: Folder of the file; made if need be.
    """

    name = version = ""  # so that ModelCheckpoint saves in <save_dir>/checkpoints

    def __init__(self, save_dir: str | Path) -> None:
        super().__init__()
        self.folder = Path(save_dir)
        self.path = self.folder / HISTORY
        self._columns: list[str] | None = None  # None until the file has been looked at
        self._last: dict[str, Cell] = {}  # last row of the file
        self._offset = 0  # where that row starts, in bytes

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


def default_loggers(
    root: str | Path, project: str = "rlaif_pl", name: str | None = None
) -> list[Logger]:
    """Return the history file and, unless it is disabled, a W&B logger of the folder ``root``.

    The history file comes first, so ModelCheckpoint saves in ``<root>/checkpoints`` by default. The W&B
    run, named like the folder, keeps its identity in ``<root>/wandb_id.txt``: a resumed one goes on.
    """
    folder, mode = Path(root), wandb_mode()
    loggers: list[Logger] = [HistoryFile(folder)]
    if mode == "disabled":
        return loggers
    folder.mkdir(parents=True, exist_ok=True)
    use_writable_folders(folder)
    online = mode == "online"
    logger = WandbLogger(
        name=name or folder.resolve().name,
        save_dir=folder,
        id=run_id(folder),
        project=project,
        offline=not online,
        # The stage's log file has the output; W&B's own capture breaks up progress bars.
        settings=wandb.Settings(console="off", silent=not online),
    )
    # Lightning (2.6.6) passes on a setting that W&B has retired and warns about in every run.
    logger._wandb_init.pop("anonymous", None)
    return [*loggers, logger]


class RunLoggers(Callback):
    """Attaches ``default_loggers`` for the trainer's ``default_root_dir``, before those it has.

    A resumed fit goes on in the folder's history and W&B run. One that starts anew has its own: the
    files of the run before it, ``history.csv`` and ``wandb_id.txt``, then end in ``.old``.

    Args:
        project: W&B project.
        name: Name shown by W&B; by default the folder's.
    """

    def __init__(self, project: str = "rlaif_pl", name: str | None = None) -> None:
        self.project, self.name = project, name
        self._new: list[Logger] = []  # attached for a fit that has not begun
        self._earlier: list[Path] = []  # files of a run before it

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if any(isinstance(logger, HistoryFile) for logger in trainer.loggers):
            return
        named = (Path(trainer.default_root_dir) / name for name in (HISTORY, WANDB_ID))
        self._earlier = [path for path in named if path.is_file()]
        ours = default_loggers(trainer.default_root_dir, self.project, self.name)
        trainer.loggers = [*ours, *trainer.loggers]
        self._new = ours if stage == "fit" else []

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not in setup: the trainer does not know yet whether it resumes.
        if not trainer.strategy.restore_checkpoint_after_setup:
            self._begin(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)

    def _begin(self, trainer: Trainer) -> None:
        """Set the files of an earlier run aside, unless this one goes on from a checkpoint."""
        ours, self._new = self._new, []
        if not ours or trainer.ckpt_path is not None or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        for path in self._earlier:
            path.replace(path.with_name(f"{path.name}.old"))
        for logger in ours:  # W&B's run begins when something is first logged
            if isinstance(logger, WandbLogger) and logger._experiment is None:
                logger._id = logger._wandb_init["id"] = run_id(folder)


def wandb_mode() -> Mode:
    """Return how to run W&B: as WANDB_MODE says, else online where there are credentials."""
    asked = os.environ.get("WANDB_MODE", "").lower()
    if asked in ("offline", "dryrun"):
        return "offline"
    if asked == "disabled" or os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true"):
        return "disabled"
    if asked in ("", "online", "run", "shared"):
        return "online" if asked or has_credentials() else "offline"
    raise ValueError(
        f"WANDB_MODE must be online, shared, offline or disabled, got {asked!r}; change or unset it"
    )


def has_credentials() -> bool:
    """True if W&B finds an API key in the environment or in a netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", WANDB_HOST)).hostname or ""
    named = os.environ.get("NETRC")
    home = Path.home()
    for path in [Path(named)] if named else [home / ".netrc", home / "_netrc"]:
        try:
            if netrc.netrc(path).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue  # none there, or not ours to judge
    return False


def use_writable_folders(root: Path) -> None:
    """Point W&B at folders below ``root`` where its defaults cannot be written."""
    for variable, default in WANDB_FOLDERS.items():
        if variable in os.environ:
            continue
        try:
            check_writable(Path.home() / default)
        except OSError:
            os.environ[variable] = str(root / "wandb" / variable.split("_")[1].lower())


def run_id(folder: Path) -> str:
    """Return the W&B identity of the run in a folder, made on first use."""
    path = folder / WANDB_ID
    if not path.is_file():
        write_text(path, secrets.token_hex(4) + "\n")
    return path.read_text(encoding="utf-8").strip()
