"""Read files of a run folder, and what stages left for the report in files of their own.

One that is damaged is noted and counts as missing. ``tables.json``: studies, ``evaluate matrix``,
``evaluate ratings``, ``evaluate revisions``, ``evaluate harmless``, ``select``, ``rest`` and tables of
labelers write it, with the same as Markdown beside (see ``rlaif_pl.tables``). ``alarms.json``:
``HackingAlarm`` writes it when one goes off; a run that was watched and raised none is known by the
column ``a2c/alarm_count`` of its history.
"""

from __future__ import annotations

import base64
import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from rlaif_pl.data.csv_rows import read_table
from rlaif_pl.evaluation.pairs import READERS, judges_in
from rlaif_pl.tables import Column, Page, Rows, Table

T = TypeVar("T")


def attempt(path: Path, read: Callable[[Path], T], problems: list[str]) -> T | None:
    """Read a file; None where it is absent, or damaged, which is noted in ``problems``."""
    if not path.is_file():
        return None
    try:
        return read(path)
    except (ValueError, OSError, csv.Error) as error:
        problems.append(f"{path.parent.name}/{path.name} could not be read: {error}")
        return None


def read_history(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Read points by metric; a row that a kill has cut short is left out."""
    points: dict[str, dict[int, float]] = {}
    for row in read_table(path).rows:
        step = finite(row.pop("step", None))
        for name, text in row.items():
            if step is not None and (value := finite(text)) is not None:
                points.setdefault(name, {})[int(step)] = value
    return {name: sorted(values.items()) for name, values in points.items()}


def read_json(path: Path) -> Any:
    """Read one JSON value, or a list of one a line."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".jsonl":
        return json.loads(text)
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def read_records(kind: type[T], path: Path) -> list[T]:
    """Read JSON objects as records; see ``records``."""
    return records(kind, read_json(path))


def read_mapping(path: Path) -> dict[str, object]:
    """Read one JSON object. ``ValueError``: the file holds something else."""
    return mapping(read_json(path))


def mapping(content: object) -> dict[str, object]:
    """Return a JSON object after checking that it is one. ``ValueError``: it is something else."""
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, got {type(content).__name__}")
    return content


def records(kind: type[T], content: object) -> list[T]:
    """Turn JSON objects into records. ``ValueError``: no list, or a field without default lacks."""
    if not isinstance(content, list):
        raise ValueError(f"expected a JSON list, got {type(content).__name__}")
    known = fields(kind)  # type: ignore[arg-type]
    needed = [f.name for f in known if f.default is MISSING and f.default_factory is MISSING]
    found = []
    for number, row in enumerate(content, 1):
        missing = [name for name in needed if not isinstance(row, dict) or name not in row]
        if missing:
            raise ValueError(f"entry {number} lacks {', '.join(missing)}")
        found.append(kind(**{f.name: row[f.name] for f in known if f.name in row}))
    return found


def finite(value: object) -> float | None:
    """Return a finite number, or None for anything else."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


PLOTS = {".svg": "image/svg+xml", ".png": "image/png"}
LARGEST_PLOT = 4 * 2**20  # bytes
COMMANDS = {
    "evaluate matrix": "Policies against each other",
    "evaluate ratings": "Policies ranked blind by {judges}",
    "evaluate revisions": "Rounds of revision",
    "evaluate harmless": "Harmless rate",
    "evaluate alignment": "Labelers beside each other",
    "study rewards": "Reward models by the labels they were trained on",
    "study curve": "Reward model by number of pairs",
    "study sizes": "Labelers by size",
    "study cost": "What a label costs",
    "select": "Choice of the checkpoint",
    "rest": "ReST rounds",
}


@dataclass(frozen=True, slots=True)
class Results:
    """What a stage found."""

    page: Page  # its tables, with what has to be known to read them
    plot: str  # the plot as a `data:` address; "" where there is none


def title_of(stage: str, command: str, metrics: Mapping[str, float]) -> str:
    """Return what to call the results of a stage; its metrics say who ranked."""
    words = f" {command} "
    title = next((title for name, title in COMMANDS.items() if f" {name} " in words), stage)
    return title.replace("{judges}", judges_in(metrics, "rating", READERS))


def read_results(path: Path) -> Results:
    """Read tables and the plot beside. ``ValueError``: the file is another, or the plot too large."""
    page = Page.from_json(read_json(path))
    plot = path.parent / page.plot
    if Path(page.plot).name != page.plot or plot.suffix not in PLOTS or not plot.is_file():
        return Results(page, "")
    size = plot.stat().st_size
    if size > LARGEST_PLOT:
        raise ValueError(
            f"expected a plot of at most {LARGEST_PLOT} bytes, got {size} in {plot.name}"
        )
    data = base64.b64encode(plot.read_bytes()).decode()
    return Results(page, f"data:{PLOTS[plot.suffix]};base64,{data}")


COUNT = "a2c/alarm_count"  # logged at every step that is watched
QUANTITIES = {
    "length_ratio": "response length, over that of the first steps",
    "kl": "KL from SFT, nats a response",
    "unfinished": "share cut by the length limit, rise since the first steps",
    "repetitive": "share of repetitive responses, rise since the first steps",
    "empty": "share of empty responses",
    "divergence": "reward up while the judge goes down, standard deviations",
}


@dataclass(frozen=True, slots=True)
class Alarm:
    """One quantity beyond its limit."""

    quantity: str  # its name, one of `QUANTITIES`
    value: float  # its value when the alarm went off
    limit: float  # the limit
    step: int  # optimizer step of the alarm
    since: int  # first step beyond the limit

    def __post_init__(self) -> None:
        numbers = (self.value, self.limit, self.step, self.since)
        if any(finite(number) is None for number in numbers):
            raise ValueError(f"expected numbers in an alarm, got {numbers}")

    @property
    def text(self) -> str:
        """The quantity in words."""
        return QUANTITIES.get(self.quantity, self.quantity)

    def sentence(self) -> str:
        """Say it in a sentence."""
        limit = f"beyond its limit of {self.limit:g} since step {self.since}"
        return f"{self.text}: {self.value:.3g} at step {self.step}, {limit}"


@dataclass(frozen=True, slots=True)
class Alarms:
    """Alarms of one stage."""

    action: str  # `stop` or `warn`
    alarms: Sequence[Alarm]  # those that went off, in order
    best_step: int | None  # step of the best weights before; None where none were measured
    best_value: float | None  # what they were measured at
    best_file: str  # where they are kept, below the stage's folder

    def table(self) -> Table:
        """Return what went off, as a table."""
        columns = ["alarm", "went off at step", "beyond the limit since"]
        numbers = [Column("value", ".3g"), Column("limit", ".3g")]
        rows: Rows = [
            [a.text, a.step, a.since, float(a.value), float(a.limit)] for a in self.alarms
        ]
        return Table("", [*columns, *numbers], rows)

    def outcome(self) -> str:
        """Say what was done, and which weights are exported."""
        best = ""
        if self.best_value is not None:
            best = f"step {self.best_step} (validation reward or judge: {self.best_value:.4g})"
        if self.action != "stop":
            went = "Training went on (action: warn): what is exported are the weights of the last step."
            kept = f" The best before the alarm are those of {best}, in {self.best_file}."
            return went + (kept if best else "")
        stop = f"Training was stopped at step {max(alarm.step for alarm in self.alarms)}."
        if not best:
            return f"{stop} No weights had been measured before, so those of the last step stayed."
        return (
            f"{stop} What is exported are the best weights before the alarm, those of {best}, kept in "
            f"{self.best_file}; last.ckpt is that of the last step."
        )


def read_alarms(path: Path) -> Alarms:
    """Read ``alarms.json``. ``ValueError``: it is damaged, or holds no alarm."""
    content = read_mapping(path)
    alarms = records(Alarm, content.get("alarms"))
    if not alarms:
        raise ValueError("expected at least one alarm, got none")
    best = mapping(content.get("best", {}))
    value, step = finite(best.get("value")), finite(best.get("step"))
    best_step = None if step is None or value is None else int(step)
    file = str(best.get("file", "checkpoints"))
    return Alarms(str(content.get("action")), alarms, best_step, value, file)
