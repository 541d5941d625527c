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
from rlaif_pl.training.callbacks.export_model import ExportModel
from rlaif_pl.training.callbacks.loggers import RunLoggers
from rlaif_pl.training.callbacks.run_records import MetricsFile, RunMetadata, SampleTable
from rlaif_pl.training.callbacks.terminate_on_nan import TerminateOnNaN

Spec: TypeAlias = dict[str, Any]  # class_path and init_args, as configs have them
Kinds: TypeAlias = tuple[type[Callback], ...]
FIRST: Kinds = (RunLoggers, RunMetadata, MetricsFile, TerminateOnNaN, SampleTable)
LAST: Kinds = (ExportModel, ModelCheckpoint)
NAMES = tuple(kind.__name__ for kind in (*FIRST, *LAST))


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
    arguments = _arguments(module, chosen)

    def wanted(kind: type[Callback]) -> bool:
        if kind not in arguments or {"all", kind.__name__} & set(chosen.off):
            return False
        if kind is ModelCheckpoint:
            keeping = [spec for spec in given if (spec.get("init_args") or {}).get("save_last")]
            return checkpointing and not any(issubclass(_class_of(s), kind) for s in keeping)
        return not any(issubclass(_class_of(spec), kind) for spec in given)

    def made(kinds: Kinds) -> list[Spec]:
        return [
            {"class_path": f"{_home(kind)}.{kind.__name__}", "init_args": arguments[kind]}
            for kind in kinds
            if wanted(kind)
        ]

    return [*made(FIRST), *given, *made(LAST)]


def default_callbacks(
    module: LightningModule | type[LightningModule], options: DefaultCallbacks | None = None
) -> list[Callback]:
    """Return the callbacks of every fit of the command line, for a trainer made in Python."""
    kind = module if isinstance(module, type) else type(module)
    specs = callback_specs(kind, (), options)
    return [_class_of(spec)(**spec["init_args"]) for spec in specs]


def _home(kind: type[Callback]) -> str:
    is_lightnings = kind is ModelCheckpoint
    return "lightning.pytorch.callbacks" if is_lightnings else "rlaif_pl.training.callbacks"


def _arguments(
    module: type[LightningModule], options: DefaultCallbacks
) -> dict[type[Callback], dict[str, Any]]:
    result: dict[type[Callback], dict[str, Any]] = {kind: {} for kind in FIRST[:-1]}
    if getattr(module, "samples_while_training", False):
        result[SampleTable] = {"every_n_steps": options.sample_every}
    if issubclass(module, TrainableModule):
        result[ExportModel] = {"folder": options.export_to or module.export_folder}
    every = {"every_n_train_steps": options.checkpoint_every}
    return result | {ModelCheckpoint: {"save_last": True, "save_top_k": 0, **every}}


def _class_of(spec: Mapping[str, Any]) -> type[Callback]:
    module, _, name = str(spec["class_path"]).rpartition(".")
    kind: type[Callback] = getattr(importlib.import_module(module), name)
    return kind
