"""Before the first step: look for what the last one needs, which may be hours away."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

from rlaif_pl.data.disk import check_writable
from rlaif_pl.labeling.usage.projection import backends_of
from rlaif_pl.rl.function_reward import rewards_of
from rlaif_pl.training.base import TrainableModule
from rlaif_pl.training.callbacks.export_model import ExportModel
from rlaif_pl.training.checkpoints import is_remote, refuse_address
from rlaif_pl.training.trainer_check import check_strategy

OPTIMIZER = 3  # Adam keeps two numbers beside each weight


def preflight(trainer: Trainer, module: LightningModule) -> None:
    """Refuse a fit that could not be brought to its end; reads, writes and asks next to nothing.

    Looked at: whether the model can be exported, whether its folder and those of checkpoints can be
    written to and have room, whether references are there, and whether servers that reward or judge
    answer (OSError). Data and labelers of data are read before the first step anyway.
    """
    if not trainer.is_global_zero:
        return
    if isinstance(module, TrainableModule):
        check_strategy(trainer, module)
        module.check_inputs(trainer)
    least, likely = _writes(trainer, module)
    disks: dict[int, list[Path]] = {}
    for folder in likely:
        check_writable(folder)
        disks.setdefault(folder.stat().st_dev, []).append(folder)
    for folders in disks.values():
        free = shutil.disk_usage(folders[0]).free
        places = ", ".join(map(str, folders))
        needed, wished = sum(least[f] for f in folders), sum(likely[f] for f in folders)
        if free < needed:
            raise ValueError(
                f"expected {_size(needed)} of room for the export and a checkpoint in {places}, got "
                f"{_size(free)}; free some, or name a folder on another disk"
            )
        if free < wished:
            most = f"export and checkpoints may take {_size(wished)} in {places}"
            rank_zero_warn(f"{most}, where {_size(free)} are free")
    check_servers(module, trainer)


def _writes(trainer: Trainer, module: LightningModule) -> tuple[Counter[Path], Counter[Path]]:
    """Bytes that a fit writes by folder: at least, and likely."""
    least, likely = Counter[Path](), Counter[Path]()
    trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ExportModel):
            folder, size = callback.target(trainer).parent, callback.check(trainer, module)
            least[folder] += size
            likely[folder] += size
        elif isinstance(callback, Checkpoint):
            place = getattr(callback, "dirpath", None) or trainer.default_root_dir
            if getattr(trainer.strategy, "_save_distributed_checkpoint", False):
                refuse_address(place)
            if is_remote(place):
                continue  # no disk of this machine
            folder = Path(place)
            kept = max(1, int(getattr(callback, "save_top_k", 1) or 0))
            weights = 1 if getattr(callback, "save_weights_only", False) else OPTIMIZER
            least[folder] += trained
            kept += bool(getattr(callback, "save_last", False))  # and the one before it
            likely[folder] += kept * weights * trained
    return least, likely


def check_servers(module: LightningModule, trainer: Trainer) -> None:
    """Ask each server that rewards or judges whether it is there, or raise the OSError why not."""
    judges = [getattr(callback, "judge", None) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    rewards = rewards_of(getattr(module, "reward", None)).values()
    for each in [*rewards, *(getattr(judge, "judge_model", None) for judge in judges)]:
        is_asked = each is not None and not isinstance(each, nn.Module)
        for backend in backends_of(getattr(each, "labeler", each)) if is_asked else ():
            if (check := getattr(backend, "check", None)) is not None:
                check()


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
