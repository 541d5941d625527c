"""Check a stage's config without running it: parse all, build what needs no model and no download."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from torch.optim import Optimizer

from rlaif_pl.cli.commands.parsers import FunctionParser, function_parser
from rlaif_pl.cli.commands.refusals import Refusal, refusal
from rlaif_pl.cli.commands.train import Parser, add_default_callbacks, refuse_sharding
from rlaif_pl.data.sources import DataSource
from rlaif_pl.evaluation.agreement.gate import QualityThresholds
from rlaif_pl.labeling.backends import EndpointBackend
from rlaif_pl.labeling.outcome import VerdictOptions
from rlaif_pl.labeling.usage.projection import backends_of
from rlaif_pl.models import BackboneOptions
from rlaif_pl.pipeline.yaml_files import Value
from rlaif_pl.rl.kl import AdaptiveKL
from rlaif_pl.rl.objective import Advantages
from rlaif_pl.rl.shaping import RewardShaping
from rlaif_pl.text import Template
from rlaif_pl.training import PreferenceDataModule
from rlaif_pl.training.callbacks import AlarmLimits, DefaultCallbacks

LIGHTNING = ("fit", "validate", "predict")
OUTER = (  # of the commands themselves
    "ckpt_path",
    "peer_timeout",
    "return_predictions",
    "verbose",
    "weights_only",
)
RECORDS: dict[frozenset[str], Callable[..., object]] = {
    frozenset(each.name for each in fields(kind)): kind
    for kind in (
        DataSource,
        Template,
        RewardShaping,
        Advantages,
        AdaptiveKL,
        VerdictOptions,
        AlarmLimits,
        DefaultCallbacks,
        QualityThresholds,
        BackboneOptions,
    )
}  # options whose constructors check values, by their names
MODEL_KEYS = ("backbone", "judge", "model")  # arguments that load weights


class ConfigCheck:
    """Checks configs; parsers are made once a process.

    Args:
        functions: Module and function of each command that is one.

    Attributes:
        built: Parts that were built: labelers behind servers, callbacks, optimizers, schedules.
        servers: What asks servers among them, by address.
    """

    def __init__(self, functions: Mapping[str, tuple[str, str]]) -> None:
        self.functions = dict(functions)
        self.built = 0
        self.servers: dict[str, EndpointBackend] = {}

    def problem(self, command: str, content: Mapping[str, Value]) -> str | None:
        """Say what is wrong with a stage's config; None where nothing was found."""
        found = self.refused(command, content)
        return None if found is None else found.said()

    def refused(self, command: str, content: Mapping[str, Value]) -> Refusal | None:
        """Return what is wrong with a stage's config; None where nothing was found."""
        if command in LIGHTNING:
            parser: Parser | FunctionParser = lightning_parser()
            content = {key: value for key, value in content.items() if key not in OUTER}
        elif command in self.functions:
            parser = parser_of(*self.functions[command])
        else:
            return Refusal(f"unknown command {command!r}")
        try:
            parsed = parser.parse_object(dict(content))
            if command in LIGHTNING:
                refuse_sharding(parsed)
        except ArgumentError as error:
            return refusal(parser, str(error))
        except (ValueError, TypeError, OSError) as error:
            return Refusal(" ".join(str(error).split()))
        try:
            self._build(parsed)
        except (ArgumentError, ValueError, TypeError, OSError) as error:
            return Refusal(" ".join(str(error).split()))
        return None

    def unreachable(self) -> str | None:
        """Ask the servers of what was built whether they are there, each once; say which is not."""
        while self.servers:
            _, server = self.servers.popitem()
            try:
                server.check()
            except OSError as error:
                return str(error)
        return None

    def _build(self, config: Any) -> None:
        """Build, depth first, every class in a parsed config that loads nothing."""
        if isinstance(config, list | tuple):
            for item in config:
                self._build(item)
        if not isinstance(config, Namespace | dict):
            return
        values = vars(config) if isinstance(config, Namespace) else config
        name = values.get("class_path")
        record = RECORDS.get(frozenset(values))
        if record is not None:
            record(**_plain(config))
        if isinstance(name, str) and is_light(config):
            self._make(name, config)
            return
        for value in values.values():
            self._build(value)

    def _make(self, name: str, config: Any) -> None:
        """Make one object: its constructor checks what types cannot."""
        module, _, attribute = name.rpartition(".")
        kind = getattr(importlib.import_module(module), attribute)
        if not isinstance(kind, type):
            return
        is_optimizer = issubclass(kind, Optimizer)
        is_schedule = "optimizer" in inspect.signature(kind).parameters
        wanted = OptimizerCallable if is_optimizer else LRSchedulerCallable if is_schedule else kind
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--it", type=wanted)
        made = parser.instantiate(parser.parse_object({"it": _plain(config)})).it
        weights = [nn.Parameter(torch.zeros(2, 2))]
        if is_optimizer:
            made(weights)
        elif is_schedule:
            made(torch.optim.SGD(weights, lr=1.0))
        self.built += 1
        asked = [made] if isinstance(made, EndpointBackend) else backends_of(made)
        self.servers |= {str(b.base_url): b for b in asked if isinstance(b, EndpointBackend)}


@cache
def lightning_parser() -> Parser:
    """Return a parser of what LightningCLI parses, without a trainer being made."""
    parser = Parser(exit_on_error=False)
    parser.add_argument("--seed_everything", type=bool | int, default=True)
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    parser.add_lightning_class_args(PreferenceDataModule, "data")
    add_default_callbacks(parser)
    return parser


@cache
def parser_of(module: str, name: str) -> FunctionParser:
    """Return a parser of a command's options."""
    return function_parser(getattr(importlib.import_module(module), name), exits=False)


def is_light(config: Any) -> bool:
    """Whether a class in a config can be built without weights: no local model in or below it."""
    values = vars(config) if isinstance(config, Namespace) else config
    name = str(values.get("class_path"))
    if name.endswith(".EndpointBackend"):
        return True
    if ".callbacks." in name:
        return not _loads(values.get("init_args"))
    if "Labeler" in name.rsplit(".", 1)[-1]:
        options = values.get("init_args")
        inner = vars(options) if isinstance(options, Namespace) else options or {}
        backend = inner.get("backend")
        return isinstance(backend, Namespace | dict) and is_light(backend)
    return name.startswith("torch.optim") or name.endswith(".LinearDecay")


def _loads(config: Any) -> bool:
    """Whether a part of a config names something that is loaded."""
    values = vars(config) if isinstance(config, Namespace) else config
    if isinstance(values, dict):
        return any(
            (key in MODEL_KEYS and value is not None) or _loads(value)
            for key, value in values.items()
        )
    return isinstance(values, list) and any(_loads(item) for item in values)


def _plain(options: Any) -> Any:
    """Return a parsed config as plain mappings and lists."""
    if isinstance(options, Namespace):
        options = vars(options)
    if isinstance(options, dict):
        return {key: _plain(value) for key, value in options.items()}
    return [_plain(item) for item in options] if isinstance(options, list) else options
