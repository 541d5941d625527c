"""What a run folder remembers: records of stages, the lock, the merged metrics.

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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rlaif_pl.data.metric_files import merge_stages, read_metrics, write_json, write_metrics
from rlaif_pl.pipeline.experiment import Experiment
from rlaif_pl.pipeline.fingerprint import Fingerprint

LOCK_PATIENCE = 5.0  # seconds; processes of a killed run need a moment to go


class FolderInUseError(RuntimeError):
    """Another `run` works in the folder."""


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One stage, started or finished."""

    command: str  # the program and its arguments, as one line
    fingerprint: Fingerprint  # what its result depends on
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


@contextmanager
def folder_lock(out: Path, patience: float = LOCK_PATIENCE) -> Iterator[None]:
    """Hold the run folder, made if absent; FolderInUseError after ``patience`` seconds.

    The lock belongs to the processes that have the file open: this one and, because the descriptor
    is inheritable, the stage it starts. So a stage that outlives a killed run keeps others out.
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


def merge_metrics(experiment: Experiment) -> dict[str, float]:
    """Write ``<out>/metrics.json`` of the finished stages (see ``merge_stages``), and return it."""
    found: dict[str, dict[str, float]] = {}
    seconds: dict[str, float] = {}
    for stage in experiment.stages:
        folder = experiment.folder(stage)
        record = read_record(folder / "done.json")
        if record is None:
            continue
        path = folder / "metrics.json"
        found[stage.name] = read_metrics(path) if path.is_file() else {}
        seconds[f"run/seconds_{stage.name}"] = round(record.seconds, 3)
    total = {"run/seconds": round(sum(seconds.values()), 3)}
    merged = merge_stages(found) | seconds | total
    missing = [key for key, value in merged.items() if not math.isfinite(value)]
    write_metrics(experiment.out / "metrics.json", merged, may_be_missing=missing)
    return merged
