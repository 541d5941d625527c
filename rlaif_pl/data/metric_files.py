"""The flat ``metrics.json`` every command writes, and the evaluation files the report reads."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlaif_pl.data.disk import replaced
from rlaif_pl.tables import Page, csv_text

if TYPE_CHECKING:  # it takes half a second to import, and few commands draw
    from matplotlib.figure import Figure

TABLES = "tables.json"  # of a stage: what ``write_page`` writes
DPI = 130  # of plots
OF_STAGE = ":"  # between a stage and a metric that several stages measured differently
LIMITS = ("_low", "_high")  # endings of an estimate's confidence limits


def write_metrics(
    path: Path | str, metrics: Mapping[str, float], may_be_missing: Collection[str] = ()
) -> Path:
    """Write metrics (``part/quantity``) as one flat JSON object with sorted keys, all or none.

    Those that are not finite are ``null`` if they ``may_be_missing``, else a ValueError.
    """
    clean = {key: _number(key, value, may_be_missing) for key, value in metrics.items()}
    text = json.dumps(clean, indent=2, sort_keys=True, allow_nan=False)
    return write_text(path, text + "\n")


def read_metrics(path: Path | str) -> dict[str, float]:
    """Read metrics; ``null`` comes back as NaN, anything but numbers is a ValueError."""
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(
            f"expected metrics at {source}, found no file; run the stage that writes it first"
        )
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON in {source}, got: {error}; delete it and rerun") from error
    if not isinstance(content, dict):
        raise ValueError(f"expected a flat JSON object in {source}, got {type(content).__name__}")
    for key, value in content.items():
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise ValueError(f"expected a number for {key!r} in {source}, got {value!r}")
    return {key: math.nan if value is None else value for key, value in content.items()}


def update_metrics(
    path: Path | str, metrics: Mapping[str, float], may_be_missing: Collection[str] = ()
) -> Path:
    """Lay metrics over those already in the file, if any; no two processes at the same time."""
    old = read_metrics(path) if Path(path).is_file() else {}
    kept = [key for key, value in old.items() if not math.isfinite(value) and key not in metrics]
    return write_metrics(path, {**old, **metrics}, [*may_be_missing, *kept])


def merge_stages(stages: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Put the metrics of several stages into one flat mapping, losing none.

    Where two differ in a name, it stands there once a stage, as ``stage:name``, with its limits.
    """
    given: dict[str, dict[str, float]] = {}
    for stage, metrics in stages.items():
        for name, value in metrics.items():
            given.setdefault(name, {})[stage] = value
    differing = {
        estimate_of(name, given)
        for name, values in given.items()
        if len({None if math.isnan(value) else value for value in values.values()}) > 1
    }
    merged: dict[str, float] = {}
    for name, values in given.items():
        if estimate_of(name, given) in differing:
            merged |= {f"{stage}{OF_STAGE}{name}": value for stage, value in values.items()}
        else:
            merged[name] = next(iter(values.values()))
    return merged


def estimate_of(name: str, known: Collection[str]) -> str:
    """Return the name of the estimate that a limit belongs to; any other name as it is."""
    for limit in LIMITS:
        if name.endswith(limit) and name.removesuffix(limit) in known:
            return name.removesuffix(limit)
    return name


def write_json(path: Path | str, content: object) -> Path:
    """Write one JSON value at once; NaN and infinity are refused with a ``ValueError``."""
    return write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_json_lines(path: Path | str, rows: Iterable[Mapping[str, object]]) -> Path:
    """Write one JSON object a line, all at once."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    return write_text(path, "".join(lines))


def write_text(path: Path | str, text: str) -> Path:
    """Write a file so that a reader, or a kill, sees the old content or the new, never a part."""
    target = Path(path)
    with replaced(target) as file:
        file.write(text.encode())
    return target


def _number(key: str, value: float, may_be_missing: Collection[str]) -> float | None:
    """Return a plain Python number for JSON, or None where it may be missing and is."""
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, bool) or not isinstance(plain, int | float):
        raise ValueError(f"expected a number for metric {key!r}, got {value!r}")
    if math.isfinite(plain):
        return plain
    if key in may_be_missing:
        return None
    raise ValueError(
        f"metric {key!r} is {plain}; find out why it is not finite, or list it in may_be_missing"
    )


def write_csv(path: Path | str, records: Sequence[Mapping[str, object]]) -> None:
    """Write records, at least one, as a CSV file with a header."""
    write_text(path, csv_text(records))


def write_page(folder: Path | str, page: Page, name: str = "results.md") -> None:
    """Write tables and notes to read, and the same as ``tables.json`` for the report."""
    write_text(Path(folder) / name, page.markdown())
    write_json(Path(folder) / TABLES, page.to_json())


def move_aside(out: Path, folder: Path) -> Path:
    """Move a folder below ``OUT/replaced``, where nothing is ever deleted, and return its new place."""
    shelf = out / "replaced"
    shelf.mkdir(exist_ok=True)
    targets = (shelf / f"{folder.name}-{number}" for number in itertools.count(1))
    return folder.rename(next(each for each in targets if not each.exists()))


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, of which a reader sees all or nothing; the ending of its name says the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f".{path.name}")
    facts = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    kind = path.suffix.removeprefix(".")
    figure.savefig(work, dpi=DPI, format=kind, bbox_inches="tight", metadata=facts)
    work.replace(path)
