"""Tables that stages left for the report, as data, with their plots: ``tables.json``.

Studies, ``evaluate matrix``, ``evaluate ratings``, ``evaluate revisions``, ``evaluate harmless`` and
tables of labelers write such files, with the same as Markdown beside (see ``rlaif_pl.tables``).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlaif_pl.evaluation.gold import READERS, judges_in
from rlaif_pl.reporting.files import read_json
from rlaif_pl.tables import Page

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
    return Results(page, _plot(path.parent, page.plot))


def _plot(folder: Path, name: str) -> str:
    """Return a plot as an address that holds all of it."""
    path = folder / name
    if Path(name).name != name or path.suffix not in PLOTS or not path.is_file():
        return ""
    size = path.stat().st_size
    if size > LARGEST_PLOT:
        raise ValueError(
            f"expected a plot of at most {LARGEST_PLOT} bytes, got {size} in {path.name}"
        )
    return f"data:{PLOTS[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
