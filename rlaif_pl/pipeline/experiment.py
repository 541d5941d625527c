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
        config: sft.yaml            # relative to this file; may be left out where `set` says it all
        set:                        # dotted keys laid over that config
          seed_everything: ${seed}
          trainer.default_root_dir: ${stage}
        needs: []                   # earlier stages this one reads; by default the previous one
        produces: [policy/config.json]   # below the stage's folder; must exist afterwards

A number in a dotted key picks an item of a list, ``+`` at its end adds one.
``${out}``, ``${seed}`` and ``${stage}`` (``${out}/<name>``) are filled in under ``set``.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import cast

from rlaif_pl.device_names import parse_device, trainer_options
from rlaif_pl.pipeline.keys import closest, refuse_unknown, take, take_names
from rlaif_pl.pipeline.yaml_files import Value, flatten, overlay, read_yaml

TRAINER_COMMANDS = ("fit", "validate", "predict")
# Those that load a model themselves; fit and its like take the trainer's accelerator.
DEVICE_COMMANDS = (
    "doctor",
    "sample",
    "label",
    "revise",
    "rest",
    "evaluate alignment",
    "evaluate reward",
    "evaluate policy",
    "evaluate matrix",
    "study rewards",
    "study curve",
    "evaluate revisions",
    "evaluate harmless",
    "select",
)
NO_MODEL = ("study pairs", "study sizes", "study cost", "report", "export")
COMMANDS = (*TRAINER_COMMANDS, *DEVICE_COMMANDS[1:], *NO_MODEL)  # what stages may be
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")
RESERVED = ("replaced",)  # folders of the run folder that are not stages


@dataclass(frozen=True, slots=True)
class Stage:
    """One command of an experiment."""

    name: str  # name of the stage and of its folder
    command: str  # one of `COMMANDS`
    config: Path | None  # config file the command starts from; None for an empty one
    overrides: Mapping[str, Value]  # dotted keys laid over it, placeholders not yet filled in
    needs: tuple[str, ...]  # earlier stages whose output this one reads
    produces: tuple[str, ...]  # files below the stage's folder that must exist afterwards


@dataclass(frozen=True, slots=True)
class Experiment:
    """A checked experiment file."""

    file: Path  # the file
    name: str  # name of the experiment
    out: Path  # run folder; each stage has a folder of its name in it
    seed: int  # value of `${seed}`
    stages: tuple[Stage, ...]  # stages in the order they run
    # assumptions of `--dry_run`; no stage's result depends on them
    expect: Mapping[str, Value] = field(default_factory=dict)
    # device of every stage; None leaves each stage's own. No reason to run one again
    device: str | None = None

    def folder(self, stage: Stage) -> Path:
        """Where a stage works."""
        return self.out / stage.name

    def resolve(self, stage: Stage, out: str | None = None) -> dict[str, Value]:
        """Return a stage's config with ``set`` laid over it, ``out`` in place of ``${out}``.

        A fingerprint passes a fixed text, so that a renamed run folder stays valid.
        """
        content = {} if stage.config is None else copy.deepcopy(read_yaml(stage.config))
        place = str(self.out) if out is None else out
        known: dict[str, Value] = {
            "out": place,
            "seed": self.seed,
            "stage": f"{place}/{stage.name}",
        }
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
            raise ValueError(
                f"unknown placeholder ${{{name}}} in {value!r}; "
                f"known are {', '.join('${' + key + '}' for key in known)}"
            )
    whole = PLACEHOLDER.fullmatch(value)
    if whole:
        return known[whole.group(1)]
    return PLACEHOLDER.sub(lambda match: str(known[match.group(1)]), value)


def load_experiment(
    file: Path, out: Path | None = None, seed: int | None = None, device: str | None = None
) -> Experiment:
    """Read and check an experiment file; ValueError names what is missing or wrong."""
    content = read_yaml(file)
    refuse_unknown(content, ("name", "out", "seed", "device", "expect", "stages"), str(file))
    rows = take(content, "stages", list, None, str(file))
    if not rows:
        raise ValueError(f"{file}: expected at least one stage under stages, got none")
    stages: list[Stage] = []
    for number, row in enumerate(rows, 1):
        stages.append(_stage(file, row, f"{file}, stage {number}", stages))
    name = take(content, "name", str, file.stem, str(file))
    if device is None and "device" in content:
        device = take(content, "device", str, None, str(file))
    if device is not None:
        parse_device(device)
    folder = Path(take(content, "out", str, f"runs/{name}", str(file))) if out is None else out
    experiment = Experiment(
        file,
        name,
        folder.expanduser(),
        take(content, "seed", int, 0, str(file)) if seed is None else seed,
        tuple(stages),
        take(content, "expect", dict, {}, str(file)),
        device,
    )
    _check_needs(experiment)
    for stage in stages:
        _check_reads(experiment, stage)
    return experiment


def _stage(file: Path, row: Value, where: str, before: list[Stage]) -> Stage:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a mapping with name and command, got {row!r}")
    keys = tuple(each.name for each in fields(Stage) if each.name != "overrides") + ("set",)
    refuse_unknown(row, keys, where)
    name = take(row, "name", str, None, where)
    if not NAME.fullmatch(name) or name in RESERVED:
        raise ValueError(
            f"{where}: expected a name of letters, digits, '-' and '_' other than {RESERVED[0]!r}, "
            f"got {name!r}"
        )
    where = f"{file}, stage {name!r}"
    if name in {stage.name for stage in before}:
        raise ValueError(f"{where}: the name is taken by an earlier stage; choose another")
    command = " ".join(take(row, "command", str, None, where).split())
    if command not in COMMANDS:
        raise ValueError(f"{where}: unknown command {command!r}{closest(command, COMMANDS)}")
    config = file.parent / take(row, "config", str, None, where) if "config" in row else None
    if config is not None and not config.is_file():
        raise ValueError(f"{where}: the config file {config} does not exist")
    return Stage(
        name,
        command,
        config,
        take(row, "set", dict, {}, where),
        take_names(row, "needs", [stage.name for stage in before[-1:]], where),
        take_names(row, "produces", [], where),
    )


def _check_needs(experiment: Experiment) -> None:
    order = {stage.name: number for number, stage in enumerate(experiment.stages)}
    needs = [(stage.name, need) for stage in experiment.stages for need in stage.needs]
    for name, need in needs:
        if need not in order:
            where = f"{experiment.file}, stage {name!r}"
            raise ValueError(f"{where}: needs unknown stage {need!r}{closest(need, order)}")
    try:
        TopologicalSorter({stage.name: stage.needs for stage in experiment.stages}).prepare()
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise ValueError(f"{experiment.file}: needs go in a circle: {circle}") from error
    for name, need in needs:
        if order[need] > order[name]:
            where = f"{experiment.file}, stage {name!r}"
            raise ValueError(f"{where}: needs {need!r}, which must then stand above it")


def _check_reads(experiment: Experiment, stage: Stage) -> None:
    """Refuse a config that names another stage's folder without needing that stage."""
    upstream: set[str] = set(stage.needs)
    for earlier in reversed(experiment.stages):
        if earlier.name in upstream:
            upstream.update(earlier.needs)
    marker = "${out}/"
    for key, value in flatten(experiment.resolve(stage, "${out}")).items():
        if not isinstance(value, str) or not value.startswith(marker):
            continue
        read = value.removeprefix(marker).split("/", 1)[0]
        others = {other.name for other in experiment.stages} - {stage.name}
        if read in others - upstream:
            raise ValueError(
                f"{experiment.file}, stage {stage.name!r}: {key} reads {value} but the stage does "
                f"not need {read!r}; add it to needs (and put it above, if it is below)"
            )
