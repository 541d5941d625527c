"""The experiment file: a list of stages, each one command with a config of its own.

::

    name: quickstart-rlaif
    out: runs/quickstart            # --out replaces it
    seed: 0                         # --seed replaces it
    device: auto                    # of every stage (see device_names); --device replaces it
    expect: {gpus: 8}               # what --dry_run reckons with (see estimate_inputs.Expect)
    stages:
      - name: sft
        command: fit                # one of COMMANDS
        config: sft.yaml            # relative to this file, or one of the package's (quickstart/
                                    # sft.yaml); may be left out where `set` says it all
        set:                        # dotted keys laid over that config
          seed_everything: ${seed}
          trainer.default_root_dir: ${stage}
        needs: []                   # earlier stages this one reads; by default the previous one
        produces: [policy/config.json]   # below the stage's folder; must exist afterwards

A number in a dotted key picks an item of a list, ``+`` at its end adds one.
``${out}``, ``${seed}`` and ``${stage}`` (``${out}/<name>``) are filled in under ``set``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TypeVar, cast

from rlaif_pl.config_paths import find_config
from rlaif_pl.device_names import parse_device, trainer_options
from rlaif_pl.pipeline.yaml_files import Value, flatten, overlay, read_yaml, whole_number

TRAINER_COMMANDS = ("fit", "validate", "predict")
# Those that load a model themselves; fit and its like take the trainer's accelerator.
DEVICE_COMMANDS = (
    *("doctor", "sample", "label", "revise", "rest", "select"),
    *(f"evaluate {what}" for what in ("alignment", "reward", "policy", "matrix", "revisions")),
    *("evaluate harmless", "study rewards", "study curve"),
)
NO_MODEL = ("study pairs", "study sizes", "study cost", "report", "export")
COMMANDS = (*TRAINER_COMMANDS, *DEVICE_COMMANDS[1:], *NO_MODEL)  # what stages may be
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")
RESERVED = "replaced"  # a folder of the run folder that is no stage
T = TypeVar("T", str, int, list, dict)  # type: ignore[type-arg]


@dataclass(frozen=True, slots=True)
class Stage:
    """One command of an experiment."""

    name: str  # name of the stage and of its folder
    command: str  # one of `COMMANDS`
    config: Path | None  # config file the command starts from; None for an empty one
    overrides: Mapping[str, Value]  # dotted keys laid over it, placeholders not yet filled in
    needs: tuple[str, ...]  # earlier stages whose output this one reads
    produces: tuple[str, ...]  # files below the stage's folder that must exist afterwards

    def missing(self, folder: Path) -> list[str]:
        """Return the files that the stage should have made and did not."""
        return [name for name in self.produces if not (folder / name).exists()]


@dataclass(frozen=True, slots=True)
class Experiment:
    """A checked experiment file."""

    file: Path
    name: str
    out: Path  # run folder; each stage has a folder of its name in it
    seed: int  # value of `${seed}`
    stages: tuple[Stage, ...]  # in the order they run
    expect: Mapping[str, Value] = field(default_factory=dict)  # of `--dry_run`, of no result
    # device of every stage; None leaves each stage's own. No reason to run one again
    device: str | None = None

    def folder(self, stage: Stage) -> Path:
        """Where a stage works."""
        return self.out / stage.name

    def resolve(self, stage: Stage, out: str | None = None) -> dict[str, Value]:
        """Return a stage's config with ``set`` laid over it; fingerprints give a fixed ``out``."""
        content = {} if stage.config is None else read_yaml(stage.config)
        place = str(self.out) if out is None else out
        known: dict[str, Value] = {"out": place, "seed": self.seed}
        known["stage"] = f"{place}/{stage.name}"
        for key, value in stage.overrides.items():
            try:
                overlay(content, key, fill(value, known))
            except ValueError as error:
                raise ValueError(f"{self.file}, stage {stage.name!r}: {error}") from error
        return content

    def placed(self, stage: Stage) -> dict[str, Value]:
        """Return a stage's resolved config with the experiment's device laid over it."""
        content = self.resolve(stage)
        if self.device is not None and stage.command in DEVICE_COMMANDS:
            content["device"] = self.device
        if self.device is not None and stage.command in TRAINER_COMMANDS:
            for key, value in trainer_options(self.device).items():
                overlay(content, f"trainer.{key}", cast(Value, value))
        return content


def fill(value: Value, known: Mapping[str, Value]) -> Value:
    """Fill ``${...}`` in; a value that is one placeholder and nothing else keeps its type."""
    if isinstance(value, dict):
        return {key: fill(item, known) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, known) for item in value]
    if not isinstance(value, str):
        return value
    for name in PLACEHOLDER.findall(value):
        if name not in known:
            possible = ", ".join(f"${{{key}}}" for key in known)
            raise ValueError(f"unknown placeholder ${{{name}}} in {value!r}; known are {possible}")
    if whole := PLACEHOLDER.fullmatch(value):
        return known[whole[1]]
    return PLACEHOLDER.sub(lambda match: str(known[match[1]]), value)


def load_experiment(
    file: Path, out: Path | None = None, seed: int | None = None, device: str | None = None
) -> Experiment:
    """Read and check an experiment file; ValueError names what is missing or wrong."""
    content, where = read_yaml(file), str(file)
    _refuse_unknown(content, ("name", "out", "seed", "device", "expect", "stages"), where)
    stages: list[Stage] = []
    for number, row in enumerate(_take(content, "stages", list, None, where), 1):
        stages.append(_stage(file, row, f"{file}, stage {number}", stages))
    if not stages:
        raise ValueError(f"{file}: expected at least one stage under stages, got none")
    name = _take(content, "name", str, file.stem, where)
    if device is None and "device" in content:
        device = _take(content, "device", str, None, where)
    if device is not None:
        parse_device(device)
    folder = Path(_take(content, "out", str, f"runs/{name}", where)) if out is None else out
    seed = _take(content, "seed", int, 0, where) if seed is None else seed
    expect = _take(content, "expect", dict, {}, where)
    experiment = Experiment(file, name, folder.expanduser(), seed, tuple(stages), expect, device)
    _check_needs(experiment)
    for stage in stages:
        _check_reads(experiment, stage)
    return experiment


def _stage(file: Path, row: Value, where: str, before: list[Stage]) -> Stage:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a mapping with name and command, got {row!r}")
    keys = tuple(each.name for each in fields(Stage) if each.name != "overrides") + ("set",)
    _refuse_unknown(row, keys, where)
    name = _take(row, "name", str, None, where)
    if not NAME.fullmatch(name) or name == RESERVED:
        raise ValueError(
            f"{where}: expected a name of letters, digits, '-' and '_' other than {RESERVED!r}, "
            f"got {name!r}"
        )
    where = f"{file}, stage {name!r}"
    if name in {stage.name for stage in before}:
        raise ValueError(f"{where}: the name is taken by an earlier stage; choose another")
    command = " ".join(_take(row, "command", str, None, where).split())
    if command not in COMMANDS:
        raise ValueError(f"{where}: unknown command {command!r}{_closest(command, COMMANDS)}")
    try:
        named = _take(row, "config", str, None, where) if "config" in row else None
        config = None if named is None else find_config(named, file.parent)
    except FileNotFoundError as error:
        raise ValueError(f"{where}: {error}") from error
    needs = _take_names(row, "needs", [stage.name for stage in before[-1:]], where)
    produces = _take_names(row, "produces", [], where)
    return Stage(name, command, config, _take(row, "set", dict, {}, where), needs, produces)


def _check_needs(experiment: Experiment) -> None:
    order = {stage.name: number for number, stage in enumerate(experiment.stages)}
    try:
        TopologicalSorter({stage.name: stage.needs for stage in experiment.stages}).prepare()
        circle = ""
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
    for stage in experiment.stages:
        where = f"{experiment.file}, stage {stage.name!r}"
        for need in stage.needs:
            if need not in order:
                raise ValueError(f"{where}: needs unknown stage {need!r}{_closest(need, order)}")
            if not circle and order[need] > order[stage.name]:
                raise ValueError(f"{where}: needs {need!r}, which must then stand above it")
    if circle:
        raise ValueError(f"{experiment.file}: needs go in a circle: {circle}")


def _check_reads(experiment: Experiment, stage: Stage) -> None:
    """Refuse a config that names another stage's folder without needing that stage."""
    upstream: set[str] = set(stage.needs)
    for earlier in reversed(experiment.stages):
        if earlier.name in upstream:
            upstream.update(earlier.needs)
    others = {other.name for other in experiment.stages} - {stage.name} - upstream
    for key, value in flatten(experiment.resolve(stage, "${out}")).items():
        if not isinstance(value, str) or not value.startswith("${out}/"):
            continue
        read = value.removeprefix("${out}/").split("/", 1)[0]
        if read in others:
            raise ValueError(
                f"{experiment.file}, stage {stage.name!r}: {key} reads {value} but the stage does "
                f"not need {read!r}; add it to needs (and put it above, if it is below)"
            )


def _take(row: Mapping[str, Value], key: str, kind: type[T], default: T | None, where: str) -> T:
    """Return a key's value, or the default (None: it is required), or refuse another type."""
    value = row.get(key)
    if value is None:
        value = cast(Value, default)
    if value is None:
        raise ValueError(f"{where}: expected the key {key!r} (a {kind.__name__}), got none")
    if kind is int and (number := whole_number(value)) is not None:
        value = number
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{where}: expected {key} to be of type {kind.__name__}, got {value!r}")
    return value


def _take_names(
    row: Mapping[str, Value], key: str, default: list[str], where: str
) -> tuple[str, ...]:
    values = _take(row, key, list, default, where)
    if any(not isinstance(value, str) for value in values):
        raise ValueError(f"{where}: expected {key} to be a list of names, got {values!r}")
    return tuple(cast("list[str]", values))


def _refuse_unknown(row: Mapping[str, Value], known: tuple[str, ...], where: str) -> None:
    for key in row:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}{_closest(str(key), known)}")


def _closest(word: str, known: Iterable[str]) -> str:
    """Say what was probably meant, and what is possible."""
    options = list(known)
    near = difflib.get_close_matches(word, options, 1)
    return (f"; did you mean {near[0]!r}?" if near else ";") + f" known are {', '.join(options)}"
