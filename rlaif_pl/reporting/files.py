"""Read files of a run folder; one that is damaged is noted and counts as missing."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TypeVar

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
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            step = finite(row.pop("step", None))
            if step is None or None in row.values():
                continue
            for name, text in row.items():
                value = finite(text)
                if value is not None:
                    points.setdefault(name, {})[int(step)] = value
    return {name: sorted(values.items()) for name, values in points.items()}


def read_json(path: Path) -> object:
    """Read one JSON value."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_json_lines(path: Path) -> list[object]:
    """Read a JSON value a line."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


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
    names = [f.name for f in known]
    needed = [f.name for f in known if f.default is MISSING and f.default_factory is MISSING]
    found = []
    for number, row in enumerate(content, 1):
        missing = [name for name in needed if not isinstance(row, dict) or name not in row]
        if missing:
            raise ValueError(f"entry {number} lacks {', '.join(missing)}")
        found.append(kind(**{name: row[name] for name in names if name in row}))
    return found


def finite(value: object) -> float | None:
    """Return a finite number, or None for anything else."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
