"""Decide which stages to run, and show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.text import Text

from rlaif_pl.pipeline.experiment import Experiment, Stage
from rlaif_pl.pipeline.fingerprint import Fingerprint, fingerprints
from rlaif_pl.pipeline.folder import read_record
from rlaif_pl.pipeline.yaml_files import Value, flatten, read_yaml
from rlaif_pl.tables import Cell, Column, Columns, Table, duration

Action = Literal["run", "skip", "resume", "rerun"]
COLORS: Mapping[Action, str] = {
    "run": "cyan",
    "skip": "green",
    "resume": "yellow",
    "rerun": "magenta",
}
SHOWN_CHANGES = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to a stage."""

    stage: Stage  # the stage
    folder: Path  # where it works
    # `run` for the first time, `skip` as finished, `resume` after an interruption, or `rerun` from
    # the start with the old folder moved aside
    action: Action
    reason: str  # why, in a few words
    fingerprint: Fingerprint  # what its result depends on


def make_plan(experiment: Experiment, force: Sequence[str] = ()) -> list[Plan]:
    """Return what happens to each stage, in order; changes nothing.

    ``force`` names stages to run whatever their state; those that need them run again too.
    """
    names = [stage.name for stage in experiment.stages]
    for name in force:
        if name not in names:
            raise ValueError(f"--force {name}: no such stage; the stages are {', '.join(names)}")
    current = fingerprints(experiment)
    plans: list[Plan] = []
    anew: set[str] = set()  # stages whose results will be new, so that those below cannot be kept
    for stage in experiment.stages:
        action, reason = _decide(experiment, stage, current[stage.name], force)
        above = [need for need in stage.needs if need in anew]
        if above and action in ("skip", "resume"):
            action, reason = "rerun", f"{above[0]} runs again"
        if action != "skip":
            anew.add(stage.name)
        plans.append(Plan(stage, experiment.folder(stage), action, reason, current[stage.name]))
    return plans


def _decide(
    experiment: Experiment, stage: Stage, current: Fingerprint, force: Sequence[str]
) -> tuple[Action, str]:
    folder = experiment.folder(stage)
    if not folder.is_dir() or not any(folder.iterdir()):
        return "run", ""
    if stage.name in force:
        return "rerun", "forced"
    done, started = read_record(folder / "done.json"), read_record(folder / "started.json")
    record = done or started
    if record is None:
        return "rerun", "the folder holds files of something else"
    if record.fingerprint.digest != current.digest:
        state = "changed" if done else "unfinished and changed"
        changes = describe_changes(experiment, stage, record.fingerprint, current)
        return "rerun", f"{state}: {changes}"
    if done is None:
        return "resume", f"interrupted in attempt {record.attempts}"
    missing = missing_products(stage, folder)
    if missing:
        return "rerun", f"{missing[0]} is gone"
    return "skip", f"finished in {duration(done.seconds)}"


def missing_products(stage: Stage, folder: Path) -> list[str]:
    """Return the files a stage should have made and did not."""
    return [name for name in stage.produces if not (folder / name).exists()]


def describe_changes(
    experiment: Experiment, stage: Stage, old: Fingerprint, new: Fingerprint
) -> str:
    """Say what changed, with the first changed config keys where the old config is there."""
    parts = new.changes_since(old)
    path = experiment.folder(stage) / "config.yaml"
    if "config" in parts and path.is_file():
        before, after = flatten(read_yaml(path)), flatten(experiment.placed(stage))
        parts[parts.index("config")] = f"config ({_key_changes(before, after)})"
    return ", ".join(parts)


def _key_changes(before: Mapping[str, Value], after: Mapping[str, Value]) -> str:
    absent = object()
    changed = [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in {**before, **after}
        if before.get(key, absent) != after.get(key, absent)
    ]
    more = len(changed) - SHOWN_CHANGES
    return "; ".join(changed[:SHOWN_CHANGES]) + (f"; {more} more" if more > 0 else "") or "command"


def plan_table(experiment: Experiment, plans: Sequence[Plan]) -> Table:
    """Show what will happen."""
    columns: Columns = [
        Column(title, align="left") for title in ("stage", "command", "needs", "plan")
    ]
    rows: list[list[Cell]] = []
    for plan in plans:
        action = Text.assemble((plan.action, COLORS[plan.action]), f" {plan.reason}".rstrip())
        rows.append([plan.stage.name, plan.stage.command, ", ".join(plan.stage.needs), action])
    return Table(f"{experiment.name}, seed {experiment.seed}, in {experiment.out}", columns, rows)


def result_table(experiment: Experiment, plans: Sequence[Plan], ended: Mapping[str, str]) -> Table:
    """Show what happened and how long each stage took."""
    done = {plan.stage.name: read_record(plan.folder / "done.json") for plan in plans}
    rows = [
        [name, ended.get(name, "not reached"), duration(record.seconds) if record else ""]
        for name, record in done.items()
    ]
    spent = duration(sum(record.seconds for record in done.values() if record))
    columns: Columns = ["stage", Column("result", align="left"), "time"]
    return Table(f"{experiment.name}: stages", columns, rows, ["all", "", spent])
