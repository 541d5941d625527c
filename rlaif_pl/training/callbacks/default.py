"""The callbacks of every fit of the command line: records, guards, the export, the last checkpoint."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint

from rlaif_pl.errors import at_least
from rlaif_pl.training.base import TrainableModule

Spec: TypeAlias = dict[str, Any]  # class_path and init_args, as configs have them
OURS = "rlaif_pl.training.callbacks"
RECORDS = ("RunLoggers", "RunMetadata", "MetricsFile", "TerminateOnNaN")
NAMES = (*RECORDS, "SampleTable", "ExportModel", "ModelCheckpoint")


@dataclass(frozen=True)
class DefaultCallbacks:
    """Options of the default callbacks.

    They are RunLoggers, RunMetadata, MetricsFile, TerminateOnNaN, SampleTable (of modules that sample),
    ExportModel (of modules that export) and a ModelCheckpoint that keeps checkpoints/last.ckpt.

    Attributes:
        off: Names of those left out; ``[all]`` leaves out every one.
        checkpoint_every: Optimizer steps between two writes of last.ckpt, at least 1.
        sample_every: Optimizer steps between two entries of samples.csv, at least 1.
        export_to: Folder of the trained model below trainer.default_root_dir; None takes the module's,
            ``policy`` or ``reward_model``.
    """

    off: tuple[str, ...] = ()
    checkpoint_every: int = 100
    sample_every: int = 10
    export_to: str | None = None

    def __post_init__(self) -> None:
        for name in set(self.off) - {"all", *NAMES}:
            raise ValueError(
                f"expected names of default_callbacks.off among all, {', '.join(NAMES)}, got {name!r}"
            )
        for name in ("checkpoint_every", "sample_every"):
            at_least(1, **{f"default_callbacks.{name}": getattr(self, name)})


def callback_specs(
    module: type[LightningModule],
    given: Sequence[Spec] = (),
    options: DefaultCallbacks | None = None,
    checkpointing: bool = True,
) -> list[Spec]:
    """Return what a fit's trainer gets: the default callbacks around those that are given.

    A default is left out where one of its class is given; the checkpoint, where one is given that saves
    the last or the trainer saves none. So a list that has been completed stays as it is.
    """
    chosen = options or DefaultCallbacks()
    first: list[Spec] = [{"class_path": f"{OURS}.{name}", "init_args": {}} for name in RECORDS]
    if getattr(module, "samples_while_training", False):
        every = {"every_n_steps": chosen.sample_every}
        first.append({"class_path": f"{OURS}.SampleTable", "init_args": every})
    last: list[Spec] = []
    if issubclass(module, TrainableModule):
        place = {"folder": chosen.export_to or module.export_folder}
        last.append({"class_path": f"{OURS}.ExportModel", "init_args": place})
    if checkpointing:
        path = "lightning.pytorch.callbacks.ModelCheckpoint"
        kept = {"save_last": True, "save_top_k": 0, "every_n_train_steps": chosen.checkpoint_every}
        last.append({"class_path": path, "init_args": kept})

    def is_wanted(spec: Spec) -> bool:
        kind = _class_of(spec)
        if {"all", kind.__name__} & set(chosen.off):
            return False
        alike = [each for each in given if issubclass(_class_of(each), kind)]
        if kind is ModelCheckpoint:
            alike = [each for each in alike if (each.get("init_args") or {}).get("save_last")]
        return not alike

    return [*filter(is_wanted, first), *given, *filter(is_wanted, last)]


def default_callbacks(
    module: LightningModule | type[LightningModule], options: DefaultCallbacks | None = None
) -> list[Callback]:
    """Return the callbacks of every fit of the command line, for a trainer made in Python."""
    kind = module if isinstance(module, type) else type(module)
    specs = callback_specs(kind, (), options)
    return [_class_of(spec)(**spec["init_args"]) for spec in specs]


def _class_of(spec: Mapping[str, Any]) -> type[Callback]:
    module, _, name = str(spec["class_path"]).rpartition(".")
    kind: type[Callback] = getattr(importlib.import_module(module), name)
    return kind
