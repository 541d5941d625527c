"""Check a config without running it: parse it, and build of it what loads nothing."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, get_origin

import torch
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from jsonargparse._postponed_annotations import get_return_type
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rlaif_pl.cli.commands.parsers import FunctionParser, function_parser
from rlaif_pl.cli.commands.refusals import Refusal, refusal
from rlaif_pl.cli.commands.train import Parser, add_default_callbacks, refuse_sharding
from rlaif_pl.cli.commands.values import function_at
from rlaif_pl.cli.registry import FUNCTIONS, LIGHTNING, function_of
from rlaif_pl.errors import explained
from rlaif_pl.evaluation.judges import minilm_folder
from rlaif_pl.evaluation.samples import PolicyReporting
from rlaif_pl.evaluation.win_rates.measure import MatrixJudges
from rlaif_pl.labeling.backends import EndpointBackend, LocalBackend
from rlaif_pl.labeling.backends.endpoint_http import openai_package
from rlaif_pl.labeling.registry import build_labeler
from rlaif_pl.labeling.strategies.rubric import RubricLabeler
from rlaif_pl.labeling.usage.projection import backends_of
from rlaif_pl.models.adapters import Lora, require_peft
from rlaif_pl.models.backbone import BackboneOptions
from rlaif_pl.pipeline.yaml_files import Value
from rlaif_pl.training import PreferenceDataModule

# Options of the commands themselves.
OUTER = ("ckpt_path", "peer_timeout", "return_predictions", "verbose", "weights_only")
_cached_parser = cache(function_parser)
LOADING = (nn.Module, Trainer, LightningDataModule)  # ours whose constructors load weights or data
OF_LIBRARIES = (Callback, Optimizer, LRScheduler)  # what is built of torch and lightning


class Unbuilt:
    """Stands for an object that is not built, since that may load weights or run a user's code.

    It passes for an object of the class ``kind`` where a parser asks.
    """

    def __init__(self, kind: type | None = None) -> None:
        self._kind = kind or Unbuilt

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # type: ignore[override]
        return self._kind

    def __call__(self, *_: Any, **__: Any) -> Unbuilt:
        """Pass for a function, too."""
        return self


class ConfigCheck:
    """Checks configs; parsers are made once a process.

    Attributes:
        built: Parts that were built: labelers, rewards by labelers, callbacks, optimizers, schedules.
        servers: What asks servers among them, by address.
    """

    def __init__(self) -> None:
        self.built = 0
        self._parts: list[Any] = []  # what needs a package or a model, since `absent` was asked
        self.servers: dict[str, EndpointBackend] = {}
        self._wrong: Exception | None = None  # what a constructor said last

    def refused(self, command: str, content: Mapping[str, Value]) -> Refusal | None:
        """Return what is wrong with a stage's config; None where nothing was found."""
        if command in LIGHTNING:
            parser: Parser | FunctionParser = lightning_parser()
            content = {key: value for key, value in content.items() if key not in OUTER}
        elif command in FUNCTIONS:
            parser = _cached_parser(function_of(command), exits=False)
        else:
            return Refusal(f"unknown command {command!r}")
        try:
            parsed = parser.parse_object(deepcopy(dict(content)))  # it changes what it is given
            if command in LIGHTNING:
                refuse_sharding(parsed)
        except ArgumentError as error:
            return refusal(parser, str(error))
        except (ValueError, TypeError, OSError) as error:
            return Refusal(" ".join(str(error).split()))
        asked = inspect.signature(function_of(command)).parameters if command in FUNCTIONS else {}
        for name, each in asked.items():
            judge = parsed.get(name) if str(each.annotation).startswith("Labeler | str") else None
            if isinstance(judge, str):
                try:
                    self._note(build_labeler(judge))
                except ValueError as error:
                    return Refusal(str(error), name)
        return self._refused_by_constructors(parser, parsed)

    def absent(self, out: Path) -> str | None:
        """Say which package or model is not there that what was built needs; None if all are.

        Models below ``out`` are for stages to make; those of the hub are not asked for.
        """
        parts, self._parts = self._parts, []
        try:
            for part in parts:
                if isinstance(part, EndpointBackend):
                    openai_package()
                elif isinstance(part, Lora):
                    require_peft("to train adapters")
                elif isinstance(part, PolicyReporting | MatrixJudges):
                    minilm_folder()
                elif not Path(part.name).absolute().is_relative_to(out.absolute()):
                    part.check_exists()
        except (OSError, ImportError) as error:
            return explained(error)
        return None

    def unreachable(self) -> str | None:
        """Ask the servers of what was built whether they are there, each once; say which is not."""
        while self.servers:
            try:
                self.servers.popitem()[1].check()
            except (OSError, ImportError) as error:
                return str(error)
        return None

    def _refused_by_constructors(self, parser: ArgumentParser, parsed: Namespace) -> Refusal | None:
        """Build what a parsed config says: constructors check what types cannot.

        What a function would make is not built: the parser would call the function.
        """
        self._wrong = None
        made = [(self._make, object, True)]
        try:
            parser.instantiate(without_functions(parsed), instantiators=made)
        except (ArgumentError, ValueError, TypeError, OSError) as error:
            told = explained(error)
            if self._wrong is not None and str(self._wrong) in str(error):
                told = explained(self._wrong)  # without all that a union of types tried besides
            return Refusal(" ".join(told.split()))
        return None

    def _make(self, class_type: type, *args: Any, **options: Any) -> Any:
        """Make one object of arguments that are made already; ``Unbuilt`` where it might load."""
        if issubclass(class_type, nn.Module):
            try_optimizer(options.values())
        if not is_light(class_type) or any(map(is_unbuilt, options.values())):
            return Unbuilt()
        if issubclass(class_type, LocalBackend):
            options.pop("device", None)  # which this machine may not have
        if issubclass(class_type, RubricLabeler) and not Path(options.get("rows") or "").is_file():
            options["rows"] = None  # which a stage is still to write
        try:
            made = class_type(*args, **options)
        except Exception as error:
            self._wrong = error
            raise
        self.built += not is_dataclass(made)
        self._note(made)
        if isinstance(made, EndpointBackend):
            self.servers[str(made.base_url)] = made
        return made

    def _note(self, made: object) -> None:
        """Note what ``absent`` has to look at."""
        is_judged = isinstance(made, PolicyReporting | MatrixJudges) and made.independent
        if is_judged or isinstance(made, EndpointBackend | Lora | BackboneOptions):
            self._parts.append(made)
        backends = [made] if isinstance(made, LocalBackend) else backends_of(made)
        local = [each for each in backends if isinstance(each, LocalBackend)]
        self._parts.extend(each.model.options for each in local)


def is_light(kind: type) -> bool:
    """Whether a class is ours, or one of ``OF_LIBRARIES``, and loads nothing when it is made."""
    library = kind.__module__.partition(".")[0]
    if library == "rlaif_pl":
        return not issubclass(kind, LOADING)
    return library in ("torch", "lightning") and issubclass(kind, OF_LIBRARIES)


def is_unbuilt(value: Any) -> bool:
    """Whether something, or an item of it, was not built."""
    if isinstance(value, Unbuilt):
        return True
    items = list(value.values()) if isinstance(value, Mapping) else value
    return isinstance(items, list | tuple) and any(map(is_unbuilt, items))


def without_functions(value: Any) -> Any:
    """Return a parsed config with a stand-in, of the declared class, for what a function would make."""
    if isinstance(value, Namespace):
        function = function_at(value.get("class_path"))
        if function is not None:
            try:
                kind = get_return_type(function)
            except (ValueError, TypeError):  # it has no signature
                kind = None
            kind = get_origin(kind) or kind
            return Unbuilt(kind if inspect.isclass(kind) else None)
        return Namespace({key: without_functions(item) for key, item in vars(value).items()})
    if isinstance(value, dict):
        return {key: without_functions(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(without_functions, value))
    return value


def try_optimizer(options: Iterable[Any]) -> None:
    """Make the optimizer and the schedule that a module is given as factories, for a few weights."""
    weights = [nn.Parameter(torch.zeros(2, 2))]
    for factory in options:
        kind = factory.args[-1] if isinstance(factory, partial) and factory.args else None
        if inspect.isclass(kind):
            factory(weights if issubclass(kind, Optimizer) else SGD(weights, lr=1.0))


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
