"""The files of a run folder that a report is made of, read into the records of ``run``.

::

    <run>/metrics.json              flat numbers; an interval as name, name_low, name_high
    <run>/<stage>/done.json         seconds, attempts, time, command; a folder with this file or
    <run>/<stage>/started.json      with that (the same of one not finished) is a stage
    <run>/<stage>/config.yaml       its resolved config
    <run>/<stage>/history.csv       a column "step", a column a metric, empty where not logged
    <run>/<stage>/run_facts.json    flat facts: versions, device, parameters
    <run>/<stage>/metrics.json      its own numbers
    <run>/<stage>/alarms.json       reward hacking alarms (see ``alarms``)
    <run>/<stage>/steps.json        steps of ReST (see ``rest_steps``)
    <run>/<stage>/tables.json       tables, notes and the name of a plot (see ``results``)
    <run>/<folder>/ratings.csv      of ``evaluate ratings``: a finished stage without done.json, since
                                    people rate when they will and no run waits for them
    <run>/<stage>/samples.jsonl     a ShownSample a line
    <run>/<stage>/win_rates.json    a list of ShownWinRate
    <run>/<stage>/reliability.json  a list of ReliabilityBin
    <run>/<stage>/labels.json       "order_gap_counts": pairs by order gap, in bins over [0, 1]

The last four are looked for in ``evaluate`` first, then in every stage, the latest first; so is the
value of a metric that several stages measured. Each file may be missing; one that cannot be read is
named in ``Run.problems`` and counts as missing. ``samples.jsonl`` of ``select`` and ``evaluate
matrix`` is of another kind and is not read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from rlaif_pl.data.metric_files import OF_STAGE, TABLES, merge_stages, read_metrics
from rlaif_pl.reporting.alarms import read_alarms
from rlaif_pl.reporting.files import (
    attempt,
    finite,
    read_history,
    read_json,
    read_json_lines,
    read_mapping,
    records,
)
from rlaif_pl.reporting.rest_steps import read_rest
from rlaif_pl.reporting.results import read_results
from rlaif_pl.reporting.run import ReportStage, Run, ShownSample, ShownWinRate, preferred
from rlaif_pl.statistics.calibration import ReliabilityBin

T = TypeVar("T")
RATINGS = "ratings.csv"
OTHER_SAMPLES = (" select ", " evaluate matrix ")  # commands with a samples.jsonl of their own


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        ValueError: There is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"expected a run folder, there is none at {folder}; give its path")
    problems: list[str] = []
    stages = [
        _read_stage(path, problems)
        for path in folder.iterdir()
        if any((path / name).is_file() for name in ("done.json", "started.json", RATINGS))
    ]
    stages.sort(key=lambda stage: (not stage.is_finished, stage.time))
    order = preferred(stages)

    def found(name: str, read: Callable[[Path], list[T]]) -> Iterator[tuple[str, list[T]]]:
        for stage in order:
            rows = attempt(folder / stage.name / name, read, problems)
            if rows:
                yield stage.name, rows

    def first(name: str, read: Callable[[Path], list[T]]) -> list[T]:
        return next((rows for _, rows in found(name, read)), [])

    merged = attempt(folder / "metrics.json", read_metrics, problems) or {}
    metrics, by_stage = _metrics(merged, stages)
    judged = list(found("win_rates.json", lambda path: records(ShownWinRate, read_json(path))))
    return Run(
        folder.resolve().name,
        metrics,
        stages,
        first("samples.jsonl", _samples_of(order)),
        _win_rates(judged),
        first("reliability.json", lambda path: records(ReliabilityBin, read_json(path))),
        problems,
        first("labels.json", _order_gaps),
        by_stage,
    )


def _metrics(
    merged: Mapping[str, float], stages: Sequence[ReportStage]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return numbers by bare name, and by stage where stages differ; ``merged`` is the run's file."""
    finished = [stage for stage in stages if stage.is_finished]
    names = {stage.name for stage in stages}
    known = {name for stage in finished for name in stage.metrics}
    bare = {
        name: value
        for name, value in merged.items()
        if math.isfinite(value) and name.split(OF_STAGE)[0] not in names
    }
    by_stage = {name: value for name, value in bare.items() if name not in known}
    by_stage |= merge_stages({stage.name: stage.metrics for stage in finished})
    for stage in reversed(preferred(finished)):
        bare |= stage.metrics
    return bare, by_stage


def _read_stage(folder: Path, problems: list[str]) -> ReportStage:
    """Read what a stage folder has."""
    is_finished = any((folder / name).is_file() for name in ("done.json", RATINGS))
    record = folder / ("done.json" if is_finished else "started.json")
    known = attempt(record, read_mapping, problems) or _rated(folder / RATINGS)
    metrics = attempt(folder / "metrics.json", read_metrics, problems) or {}
    return ReportStage(
        folder.name,
        is_finished,
        finite(known.get("seconds")) if is_finished else None,
        int(finite(known.get("attempts")) or 1),
        finite(known.get("time")) or 0.0,
        str(known.get("command", "")),
        attempt(folder / "config.yaml", lambda path: path.read_text("utf-8"), problems) or "",
        attempt(folder / "run_facts.json", read_mapping, problems) or {},
        attempt(folder / "history.csv", read_history, problems) or {},
        {name: value for name, value in metrics.items() if math.isfinite(value)},
        attempt(folder / "alarms.json", read_alarms, problems),
        attempt(folder / "steps.json", read_rest, problems) or [],
        attempt(folder / TABLES, read_results, problems),
    )


def _rated(path: Path) -> dict[str, object]:
    """Return what done.json would say of people's ratings; nothing where there are none."""
    if not path.is_file():
        return {}
    return {"command": "-m rlaif_pl evaluate ratings --out", "time": path.stat().st_mtime}


def _samples_of(stages: Sequence[ReportStage]) -> Callable[[Path], list[ShownSample]]:
    """Return a reader of samples that finds none where a stage's are of another kind."""
    others = {
        stage.name for stage in stages if any(c in f" {stage.command} " for c in OTHER_SAMPLES)
    }

    def read(path: Path) -> list[ShownSample]:
        return [] if path.parent.name in others else records(ShownSample, read_json_lines(path))

    return read


def _win_rates(judged: Sequence[tuple[str, list[ShownWinRate]]]) -> list[ShownWinRate]:
    """Name the stage of all but the first's; what another stage found again is left out."""
    kept = list(judged[0][1]) if judged else []
    for stage, rates in judged[1:]:
        known = {replace(rate, stage="") for rate in kept}
        kept += [replace(rate, stage=stage) for rate in rates if rate not in known]
    return kept


def _order_gaps(path: Path) -> list[int]:
    """Read the histogram of a labeling job; no pairs at all are no histogram."""
    counts = read_mapping(path).get("order_gap_counts")
    if not isinstance(counts, list) or not all(isinstance(n, int) and n >= 0 for n in counts):
        raise ValueError(f"expected order_gap_counts to be a list of counts, got {counts!r}")
    return counts if any(counts) else []
