"""What a report is made of: the files of a run folder, read into records.

::

    <run>/metrics.json              flat numbers; an interval as name, name_low, name_high
    <run>/<stage>/done.json         seconds, attempts, time, command; a folder with this file or
    <run>/<stage>/started.json      with that (the same of one not finished) is a stage
    <run>/<stage>/config.yaml       its resolved config
    <run>/<stage>/history.csv       a column "step", a column a metric, empty where not logged
    <run>/<stage>/run_facts.json    flat facts: versions, device, parameters
    <run>/<stage>/samples.jsonl     a Sample a line
    <run>/<stage>/win_rates.json    a list of WinRate
    <run>/<stage>/reliability.json  a list of ReliabilityBin
    <run>/<stage>/labels.json       "order_gap_counts": pairs by order gap, in bins over [0, 1]

The last four are looked for in ``evaluate`` first, then in every stage, the latest first. Each
file may be missing; one that cannot be read is named in ``Run.problems`` and counts as missing.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TypeVar

from rlaif_pl.evaluation.metrics import read_metrics

T = TypeVar("T")
R = TypeVar("R")
EVALUATION = "evaluate"  # the stage whose files come first


@dataclass(frozen=True, slots=True)
class Sample:
    """Responses of both policies to one prompt.

    Attributes:
        prompt: The prompt.
        reference: A person's response; None where there is none.
        sft: Responses before reinforcement learning.
        policy: Responses after it.
        reward_sft: Rewards of ``sft``.
        reward_policy: Rewards of ``policy``.
    """

    prompt: str
    reference: str | None
    sft: list[str]
    policy: list[str]
    reward_sft: list[float]
    reward_policy: list[float]

    def __post_init__(self) -> None:
        """Refuse a sample whose parts do not belong together."""
        if not self.sft or not self.policy:
            raise ValueError("expected at least one response of both policies, got none")
        if len(self.sft) != len(self.reward_sft) or len(self.policy) != len(self.reward_policy):
            raise ValueError("expected one reward a response")


@dataclass(frozen=True, slots=True)
class WinRate:
    """Share of comparisons one side won.

    Attributes:
        name: What was compared, for example ``policy_vs_sft``.
        judge: Who judged.
        value: The share, in [0, 1].
        low: Lower confidence limit; None where there is none.
        high: Upper confidence limit.
        n: Prompts.
    """

    name: str
    judge: str
    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Pairs whose predicted probability is alike.

    Attributes:
        confidence: Mean predicted probability, in [0, 1].
        accuracy: Share in which the prediction was right, in [0, 1].
        count: Pairs.
    """

    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the run.

    Attributes:
        name: Name of its folder.
        is_finished: False where only ``started.json`` is there.
        seconds: Seconds it took; None where not known.
        attempts: How often it was started.
        time: When it ended (or started), seconds since 1970.
        command: What ran.
        config: Text of its config.
        facts: Facts of its run.
        history: Points ``(step, value)`` by metric.
    """

    name: str
    is_finished: bool
    seconds: float | None
    attempts: int
    time: float
    command: str
    config: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)
    history: Mapping[str, list[tuple[int, float]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """Everything a report shows.

    Attributes:
        name: Name of the run folder.
        metrics: Flat numbers; what is not finite is left out.
        stages: Stages in the order they ended.
        samples: Samples of the evaluation.
        win_rates: Win rates.
        reliability: Reliability of the reward model.
        problems: Files that are there and could not be read, and why.
        order_gaps: Labeled pairs by the gap between the two orders, in bins of equal width over
            [0, 1]; none where the labeler has no orders.
    """

    name: str
    metrics: Mapping[str, float]
    stages: Sequence[Stage]
    samples: Sequence[Sample]
    win_rates: Sequence[WinRate]
    reliability: Sequence[ReliabilityBin]
    problems: Sequence[str]
    order_gaps: Sequence[int] = ()


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        ValueError: There is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"expected a run folder, there is none at {folder}; give its path")
    problems: list[str] = []
    metrics = _read(folder / "metrics.json", read_metrics, problems) or {}
    stages = [
        _read_stage(path, problems)
        for path in folder.iterdir()
        if (path / "done.json").is_file() or (path / "started.json").is_file()
    ]
    stages.sort(key=lambda stage: (not stage.is_finished, stage.time))
    order = list(dict.fromkeys([EVALUATION, *(stage.name for stage in reversed(stages))]))

    def first(name: str, read: Callable[[Path], list[T]]) -> list[T]:
        found = (_read(folder / stage / name, read, problems) for stage in order)
        return next((records for records in found if records), [])

    return Run(
        folder.resolve().name,
        {key: value for key, value in metrics.items() if math.isfinite(value)},
        stages,
        first("samples.jsonl", lambda path: _records(Sample, _json_lines(path))),
        first("win_rates.json", lambda path: _records(WinRate, _json(path))),
        first("reliability.json", lambda path: _records(ReliabilityBin, _json(path))),
        problems,
        first("labels.json", _order_gaps),
    )


def _read_stage(folder: Path, problems: list[str]) -> Stage:
    """Read what a stage folder has."""
    is_finished = (folder / "done.json").is_file()
    record = folder / ("done.json" if is_finished else "started.json")
    known = _read(record, _mapping, problems) or {}
    return Stage(
        folder.name,
        is_finished,
        _float(known.get("seconds")) if is_finished else None,
        int(_float(known.get("attempts")) or 1),
        _float(known.get("time")) or 0.0,
        str(known.get("command", "")),
        _read(folder / "config.yaml", lambda path: path.read_text("utf-8"), problems) or "",
        _read(folder / "run_facts.json", _mapping, problems) or {},
        _read(folder / "history.csv", _read_history, problems) or {},
    )


def _read(path: Path, read: Callable[[Path], R], problems: list[str]) -> R | None:
    """Read a file; None where it is absent, or damaged, which is noted."""
    if not path.is_file():
        return None
    try:
        return read(path)
    except (ValueError, OSError, csv.Error) as error:
        problems.append(f"{path.parent.name}/{path.name} could not be read: {error}")
        return None


def _read_history(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Read points by metric; a row that a kill has cut short is left out."""
    points: dict[str, dict[int, float]] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            step = _float(row.pop("step", None))
            if step is None or None in row.values():
                continue
            for name, text in row.items():
                value = _float(text)
                if value is not None:
                    points.setdefault(name, {})[int(step)] = value
    return {name: sorted(values.items()) for name, values in points.items()}


def _json(path: Path) -> object:
    return json.loads(path.read_text(encoding="utf-8"))


def _json_lines(path: Path) -> list[object]:
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


def _mapping(path: Path) -> dict[str, object]:
    content = _json(path)
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, got {type(content).__name__}")
    return content


def _order_gaps(path: Path) -> list[int]:
    """Read the histogram of a labeling job; no pairs at all are no histogram."""
    counts = _mapping(path).get("order_gap_counts")
    if not isinstance(counts, list) or not all(isinstance(n, int) and n >= 0 for n in counts):
        raise ValueError(f"expected order_gap_counts to be a list of counts, got {counts!r}")
    return counts if any(counts) else []


def _records(kind: type[T], content: object) -> list[T]:
    """Turn a list of JSON objects into records, ignoring keys the record does not have."""
    if not isinstance(content, list):
        raise ValueError(f"expected a JSON list, got {type(content).__name__}")
    names = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    records = []
    for number, row in enumerate(content, 1):
        missing = [name for name in names if not isinstance(row, dict) or name not in row]
        if missing:
            raise ValueError(f"entry {number} lacks {', '.join(missing)}")
        records.append(kind(**{name: row[name] for name in names}))
    return records


def _float(value: object) -> float | None:
    """Return a finite number, or None for anything else."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
