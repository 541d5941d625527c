"""What a report shows, read from the files of a run folder, each of which may be missing.

::

    <run>/metrics.json              flat numbers; an interval as name, name_low, name_high
    <run>/<stage>/done.json         seconds, attempts, time, command; a folder with this file or
    <run>/<stage>/started.json      with that (the same of one not finished) is a stage
    <run>/<stage>/config.yaml       its resolved config
    <run>/<stage>/history.csv       a column "step", a column a metric, empty where not logged
    <run>/<stage>/run_facts.json    flat facts: versions, device, parameters
    <run>/<stage>/metrics.json      its own numbers
    <run>/<stage>/alarms.json       reward hacking alarms (see ``alarms``)
    <run>/<stage>/tables.json       tables, notes and the name of a plot (see ``results``)
    <run>/<folder>/ratings.csv      of ``evaluate ratings``: a finished stage without done.json, since
                                    people rate when they will and no run waits for them
    <run>/<stage>/samples.jsonl     a ShownSample a line
    <run>/<stage>/win_rates.json    a list of ShownWinRate
    <run>/<stage>/reliability.json  a list of ReliabilityBin
    <run>/<stage>/labels.json       "order_gap_counts": pairs by order gap, in bins over [0, 1]

The last four are looked for in ``evaluate`` first, then in every stage, the latest first; so is the
value of a metric that several stages measured. A damaged file is named in ``Run.problems``.
``samples.jsonl`` of ``select`` and ``evaluate matrix`` is of another kind and is not read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from rlaif_pl.data.metric_files import OF_STAGE, TABLES, estimate_of, merge_stages, read_metrics
from rlaif_pl.evaluation.pairs import METRIC
from rlaif_pl.reporting import files
from rlaif_pl.statistics import ReliabilityBin

T = TypeVar("T")
RATINGS = "ratings.csv"
VERDICTS = f"/{METRIC}_"  # in names of `judge_metrics`
OTHER_SAMPLES = ("select", "evaluate matrix")  # commands with a samples.jsonl of their own


@dataclass(frozen=True, slots=True)
class ShownSample:
    """Responses of both policies to one prompt."""

    prompt: str
    reference: str | None  # a person's response; None where there is none
    sft: list[str]  # responses before reinforcement learning
    policy: list[str]  # responses after it
    reward_sft: list[float]  # rewards of `sft`
    reward_policy: list[float]  # rewards of `policy`

    def __post_init__(self) -> None:
        if not self.sft or not self.policy:
            raise ValueError("expected at least one response of both policies, got none")
        if len(self.sft) != len(self.reward_sft) or len(self.policy) != len(self.reward_policy):
            raise ValueError("expected one reward a response")


@dataclass(frozen=True, slots=True)
class ShownWinRate:
    """Share of comparisons one side won."""

    name: str  # what was compared, for example `policy_vs_sft`
    judge: str  # who judged
    value: float  # the share, in [0, 1]
    low: float | None  # lower confidence limit; None where there is none
    high: float | None  # upper confidence limit
    n: int  # prompts
    stage: str = ""  # the stage that measured it, where it is not the first that has win rates


@dataclass(frozen=True, slots=True)
class ReportStage:
    """One stage of the run."""

    name: str  # name of its folder
    is_finished: bool  # false where only `started.json` is there
    seconds: float | None  # seconds it took; None where not known
    attempts: int  # how often it was started
    time: float  # when it ended (or started), seconds since 1970
    command: str  # what ran
    config: str = ""  # text of its config
    facts: Mapping[str, object] = field(default_factory=dict)  # facts of its run
    history: Mapping[str, list[tuple[int, float]]] = field(default_factory=dict)  # steps and values
    metrics: Mapping[str, float] = field(default_factory=dict)  # its own finite numbers
    alarms: files.Alarms | None = None  # reward hacking alarms; None where none went off
    results: files.Results | None = None  # tables and plot; None where it left none

    def ran(self, *commands: str) -> bool:
        """Tell whether it is one of these commands, such as ``evaluate matrix``."""
        return any(f" {name} " in f" {self.command} " for name in commands)


@dataclass(frozen=True, slots=True)
class Run:
    """Everything a report shows."""

    name: str  # name of the run folder
    metrics: Mapping[str, float]  # flat numbers by bare name; what is not finite is left out
    stages: Sequence[ReportStage]  # stages in the order they ended
    samples: Sequence[ShownSample]  # samples of the evaluation
    win_rates: Sequence[ShownWinRate]  # of all stages, those of the first that has some in front
    reliability: Sequence[ReliabilityBin]  # reliability of the reward model
    problems: Sequence[str]  # files that are there and could not be read, and why
    # labeled pairs by the gap between the two orders, in bins of equal width over [0, 1]; none where
    # the labeler has no orders
    order_gaps: Sequence[int] = ()
    # the same numbers, where stages measured different values once a stage, as `stage:name`
    by_stage: Mapping[str, float] = field(default_factory=dict)


def preferred(stages: Sequence[ReportStage]) -> list[ReportStage]:
    """Put the stage whose word counts most first, ``evaluate``, then the latest."""
    latest = list(reversed(stages))
    return sorted(latest, key=lambda stage: stage.name != "evaluate")


def read_run(folder: Path) -> Run:
    """Read a run folder. ``ValueError``: there is no such folder."""
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
            rows = files.attempt(folder / stage.name / name, read, problems)
            if rows:
                yield stage.name, rows

    def first(name: str, read: Callable[[Path], list[T]]) -> list[T]:
        return next((rows for _, rows in found(name, read)), [])

    others = {stage.name for stage in order if stage.ran(*OTHER_SAMPLES)}

    def samples(path: Path) -> list[ShownSample]:
        return [] if path.parent.name in others else files.read_records(ShownSample, path)

    merged = files.attempt(folder / "metrics.json", read_metrics, problems) or {}
    metrics, by_stage = _metrics(merged, stages)
    judged = found("win_rates.json", partial(files.read_records, ShownWinRate))
    return Run(
        folder.resolve().name,
        metrics,
        stages,
        first("samples.jsonl", samples),
        _win_rates(judged),
        first("reliability.json", partial(files.read_records, ReliabilityBin)),
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
    own = {n: value for n, value in merged.items() if n.split(OF_STAGE)[0] not in names}
    bare = {name: value for name, value in own.items() if math.isfinite(value)}
    by_stage = {name: value for name, value in bare.items() if name not in known}
    by_stage |= merge_stages({stage.name: stage.metrics for stage in finished})
    for stage in reversed(preferred(finished)):
        bare = _laid_over(bare, stage.metrics)
    return bare, by_stage


def _laid_over(older: Mapping[str, float], newer: Mapping[str, float]) -> dict[str, float]:
    """Lay metrics over older ones without mixing two measurements.

    Limits stay with their estimate, and what says whose verdicts figures rest on (``judge_metrics``)
    with all that was measured by them.
    """
    measured = tuple({name.split(VERDICTS)[0] + "/" for name in newer if VERDICTS in name})
    kept = (n for n in older if estimate_of(n, newer) == n and not n.startswith(measured))
    return {name: older[name] for name in kept} | dict(newer)


def _read_stage(folder: Path, problems: list[str]) -> ReportStage:
    def read(name: str, how: Callable[[Path], T]) -> T | None:
        return files.attempt(folder / name, how, problems)

    rated = folder / RATINGS  # of people, who leave no done.json
    is_finished = (folder / "done.json").is_file() or rated.is_file()
    known = read("done.json" if is_finished else "started.json", files.read_mapping)
    if not known and rated.is_file():
        command = "-m rlaif_pl evaluate ratings --out"
        known = {"command": command, "time": rated.stat().st_mtime}
    known, metrics = known or {}, read("metrics.json", read_metrics) or {}
    return ReportStage(
        folder.name,
        is_finished,
        files.finite(known.get("seconds")) if is_finished else None,
        int(files.finite(known.get("attempts")) or 1),
        files.finite(known.get("time")) or 0.0,
        str(known.get("command", "")),
        read("config.yaml", lambda path: path.read_text("utf-8")) or "",
        read("run_facts.json", files.read_mapping) or {},
        read("history.csv", files.read_history) or {},
        {name: value for name, value in metrics.items() if math.isfinite(value)},
        read("alarms.json", files.read_alarms),
        read(TABLES, files.read_results),
    )


def _win_rates(judged: Iterable[tuple[str, list[ShownWinRate]]]) -> list[ShownWinRate]:
    kept: list[ShownWinRate] = []
    for number, (stage, rates) in enumerate(judged):
        known = {replace(rate, stage="") for rate in kept}
        kept += [replace(r, stage=stage if number else "") for r in rates if r not in known]
    return kept


def _order_gaps(path: Path) -> list[int]:
    """Read the histogram of a labeling job; no pairs at all are no histogram."""
    counts = files.read_mapping(path).get("order_gap_counts")
    if not isinstance(counts, list) or not all(isinstance(n, int) and n >= 0 for n in counts):
        raise ValueError(f"expected order_gap_counts to be a list of counts, got {counts!r}")
    return counts if any(counts) else []
