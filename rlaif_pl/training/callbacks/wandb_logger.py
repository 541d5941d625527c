"""The loggers of a run: its history file, and Weights & Biases, offline without an account."""

from __future__ import annotations

import netrc
import os
import secrets
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import wandb
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from typing_extensions import override

from rlaif_pl.data.disk import check_writable
from rlaif_pl.data.metric_files import write_text
from rlaif_pl.training.callbacks.history import HISTORY, HistoryFile

WANDB_ID = "wandb_id.txt"
WANDB_HOST = "https://api.wandb.ai"
# Variables that say where W&B keeps its own files, and its defaults below the home folder.
WANDB_FOLDERS = {
    "WANDB_CACHE_DIR": ".cache/wandb",
    "WANDB_CONFIG_DIR": ".config/wandb",
    "WANDB_DATA_DIR": ".local/share/wandb",
}
Mode = Literal["online", "offline", "disabled"]


def default_loggers(
    root: str | Path, project: str = "rlaif_pl", name: str | None = None
) -> list[Logger]:
    """Return the history file and, unless it is disabled, a W&B logger of the folder ``root``.

    The history file comes first, so ModelCheckpoint saves in ``<root>/checkpoints`` by default. The
    W&B run keeps its identity in ``<root>/wandb_id.txt``: a resumed run goes on in it. By default
    it has the folder's name.
    """
    folder = Path(root)
    loggers: list[Logger] = [HistoryFile(folder)]
    mode = wandb_mode()
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
    """Attaches ``default_loggers`` for the trainer's ``default_root_dir``.

    A config that says ``trainer.default_root_dir`` needs no second path for its loggers. Loggers
    the trainer already has stay, after these.

    A resumed fit goes on in the folder's history and W&B run. One that starts anew has its own: the
    files of the run before it, ``history.csv`` and ``wandb_id.txt``, then end in ``.old``.

    Args:
        project: W&B project.
        name: Name shown by W&B; by default the folder's.
    """

    def __init__(self, project: str = "rlaif_pl", name: str | None = None) -> None:
        self.project = project
        self.name = name
        self._new: list[Logger] = []  # attached for a fit that has not begun

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if any(isinstance(logger, HistoryFile) for logger in trainer.loggers):
            return
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
        for name in (HISTORY, WANDB_ID):
            path = folder / name
            if path.is_file():
                path.replace(path.with_name(f"{name}.old"))
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
