r"""Tables that stages leave as Markdown, with their plots: ``results.md`` or ``table.md``.

Studies, ``evaluate matrix``, ``evaluate ratings``, ``evaluate revisions``, ``evaluate harmless`` and
tables of labelers write such files. What they are made of is read here, and nothing else of Markdown::

    **Title**                 or a paragraph that ends in a colon: title of the table below it
    | a | b |                 a table; "\|" stands for a bar
    - sentence                a note
    ![caption](plot.png)      the plot, a file beside; without it the first plot beside it is shown

Everything is text: the page escapes it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rlaif_pl.evaluation.gold import READERS, judges_in

FILES = ("results.md", "table.md")
PLOTS = {".svg": "image/svg+xml", ".png": "image/png"}
LARGEST_PLOT = 4 * 2**20  # bytes
IMAGE = re.compile(r"!\[(.*)\]\(([^()/\\]+)\)")
BAR = re.compile(r"(?<!\\)\|")
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
class Table:
    """A table as text.

    Attributes:
        title: What it shows; "" where nothing is said.
        header: Column titles.
        rows: Cells, as many as the header has.
    """

    title: str
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True, slots=True)
class Results:
    """What a stage found.

    Attributes:
        tables: Its tables.
        notes: What has to be known to read them.
        caption: Of the plot.
        plot: The plot as a ``data:`` address; "" where there is none.
    """

    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    caption: str = ""
    plot: str = ""


def title_of(stage: str, command: str, metrics: Mapping[str, float]) -> str:
    """Return what to call the results of a stage; its metrics say who ranked."""
    words = f" {command} "
    title = next((title for name, title in COMMANDS.items() if f" {name} " in words), stage)
    return title.replace("{judges}", judges_in(metrics, "rating", READERS))


def read_results(path: Path) -> Results:
    """Read a file of tables and the plot beside it.

    Raises:
        ValueError: A table is damaged, or the plot is too large for a page.
    """
    tables, notes, title, caption, plot = [], [], "", "", ""
    for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8").strip()):
        lines = block.splitlines()
        image = IMAGE.fullmatch(block.strip())
        if image:
            caption, plot = image[1], image[2]
        elif block.startswith("|"):
            tables.append(_table(title, lines))
            title = ""
        elif block.startswith("- "):
            notes += [line.removeprefix("- ") for line in lines]
        elif block.startswith("**") and block.endswith("**"):
            title = block.strip("*")
        elif block.endswith(":"):
            title = block.removesuffix(":")
        elif block:
            notes.append(" ".join(lines))
    return Results(tables, notes, caption, _plot(path.parent, plot))


def _table(title: str, lines: list[str]) -> Table:
    """Read the lines of a table: header, rule, rows."""
    rows = [
        [cell.strip().replace("\\|", "|") for cell in BAR.split(line.strip())[1:-1]]
        for line in lines
    ]
    wrong = [number for number, row in enumerate(rows, 1) if len(row) != len(rows[0])]
    if len(rows) < 2 or wrong:
        raise ValueError(
            f"expected a table with a header, a rule and rows of {len(rows[0])} cells, got "
            f"{len(rows)} lines, of which {wrong} have others"
        )
    return Table(title, rows[0], rows[2:])


def _plot(folder: Path, name: str) -> str:
    """Return a plot as an address that holds all of it."""
    found = sorted(path for path in folder.iterdir() if path.suffix in PLOTS)
    path = folder / name if name else next(iter(found), None)
    if path is None or path.suffix not in PLOTS or not path.is_file():
        return ""
    size = path.stat().st_size
    if size > LARGEST_PLOT:
        raise ValueError(
            f"expected a plot of at most {LARGEST_PLOT} bytes, got {size} in {path.name}"
        )
    return f"data:{PLOTS[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
