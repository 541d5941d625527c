"""What a run folder remembers, and what is to be done in it.

::

    <out>/.lock                  held while `run` works here
    <out>/metrics.json           metrics.json of all stages in one, and run/seconds; what stages
                                 give different values stands there as stage:name
    <out>/<stage>/config.yaml    the resolved config
    <out>/<stage>/log.txt        what the stage printed
    <out>/<stage>/started.json   a StageRecord, written before the stage starts
    <out>/<stage>/done.json      a StageRecord, written after it succeeded
    <out>/replaced/<stage>-<n>/  an earlier stage folder that no longer fits
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rlaif_pl.data.metric_files import merge_stages, read_metrics, write_json, write_metrics
from rlaif_pl.pipeline.experiment import Experiment, Stage
from rlaif_pl.pipeline.fingerprint import Fingerprint, fingerprints
from rlaif_pl.pipeline.yaml_files import flatten, read_yaml
from rlaif_pl.tables import duration

LOCK_PATIENCE = 5.0  # seconds; processes of a killed run need a moment to go
Action = Literal["run", "skip", "resume", "rerun"]
SHOWN_CHANGES = 3


class FolderInUseError(RuntimeError):
    """Another `run` works in the folder."""


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One stage, started or finished."""

    command: str  # the program and its arguments, as one line
    fingerprint: Fingerprint
    attempts: int  # how often it was started
    # seconds it ran, all attempts together; before the current one in `started.json`
    seconds: float
    time: float  # when it was started or finished, in seconds since 1970

    def write(self, path: Path) -> None:
        """Write the record atomically."""
        write_json(path, asdict(self))


def read_record(path: Path) -> StageRecord | None:
    """Read a record; None where there is none, ValueError where it is damaged."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return StageRecord(**{**content, "fingerprint": Fingerprint(**content["fingerprint"])})
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is not a stage record ({error}); delete it to run the stage again"
        ) from error


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to a stage."""

    stage: Stage
    folder: Path  # where it works
    # `run` for the first time, `skip` as finished, `resume` after an interruption, or `rerun` from
    # the start with the old folder moved aside
    action: Action
    reason: str  # why, in a few words
    fingerprint: Fingerprint  # what its result depends on


def make_plan(experiment: Experiment, force: Sequence[str] = ()) -> list[Plan]:
    """Return what happens to each stage; ``force`` names some to run whatever their state."""
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
        changes = current.changes_since(record.fingerprint)
        if "config" in changes and (folder / "config.yaml").is_file():
            changes[changes.index("config")] = f"config ({_config_changes(experiment, stage)})"
        state = "changed" if done else "unfinished and changed"
        return "rerun", f"{state}: {', '.join(changes)}"
    if done is None:
        return "resume", f"interrupted in attempt {record.attempts}"
    if missing := stage.missing(folder):
        return "rerun", f"{missing[0]} is gone"
    return "skip", f"finished in {duration(done.seconds)}"


def _config_changes(experiment: Experiment, stage: Stage) -> str:
    """Name the first keys that differ from the config the stage ran with."""
    before = flatten(read_yaml(experiment.folder(stage) / "config.yaml"))
    after, absent = flatten(experiment.placed(stage)), object()
    changed = [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in {**before, **after}
        if before.get(key, absent) != after.get(key, absent)
    ]
    more = len(changed) - SHOWN_CHANGES
    return "; ".join(changed[:SHOWN_CHANGES]) + (f"; {more} more" if more > 0 else "") or "command"


@contextmanager
def folder_lock(out: Path, patience: float = LOCK_PATIENCE) -> Iterator[None]:
    """Hold the run folder, made if absent; FolderInUseError after ``patience`` seconds.

    The stage that is started inherits the lock: one that outlives a killed run keeps others out.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("a+", encoding="utf-8") as stream:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    stream.seek(0)
                    raise FolderInUseError(
                        f"{out} is in use by another run ({stream.read().strip() or 'unknown'}); "
                        "wait for it to end, end it, or choose another folder with --out"
                    ) from error
            time.sleep(0.1)
        os.set_inheritable(stream.fileno(), True)
        stream.truncate(0)
        stream.write(f"process {os.getpid()}\n")
        stream.flush()
        yield


def merge_metrics(experiment: Experiment) -> None:
    """Write ``<out>/metrics.json`` of the finished stages (see ``merge_stages``)."""
    found: dict[str, dict[str, float]] = {}
    seconds: dict[str, float] = {}
    for stage in experiment.stages:
        folder = experiment.folder(stage)
        if record := read_record(folder / "done.json"):
            path = folder / "metrics.json"
            found[stage.name] = read_metrics(path) if path.is_file() else {}
            seconds[f"run/seconds_{stage.name}"] = round(record.seconds, 3)
    total = {"run/seconds": round(sum(seconds.values()), 3)}
    merged = merge_stages(found) | seconds | total
    missing = [key for key, value in merged.items() if not math.isfinite(value)]
    write_metrics(experiment.out / "metrics.json", merged, may_be_missing=missing)
