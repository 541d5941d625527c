"""What a study leaves: tables for the terminal and for Markdown, rows as CSV, numbers, a plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlaif_pl.data.metric_files import write_metrics, write_text

COLORS = ("#3b6fb6", "#d1603d", "#4c9a6a", "#8a63a8", "#b8892b", "#6b7280")
DPI = 130


@dataclass(frozen=True, slots=True)
class ResultTable:
    """A table as text.

    Attributes:
        title: What it shows.
        header: Column titles.
        rows: Cells; names to the left, numbers to the right.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return title and table as Markdown."""
        lines = [self.header, ["---", *["---:"] * (len(self.header) - 1)], *self.rows]
        body = ("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines)
        return f"**{self.title}**\n\n" + "\n".join(body)

    def rich(self) -> Table:
        """Return it for a terminal, intervals under their estimates."""
        table = Table(title=escape(self.title), title_justify="left", pad_edge=False)
        for number, name in enumerate(self.header):
            table.add_column(escape(name), justify="right" if number else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(escape(cell.replace(" [", "\n[")) for cell in row))
        return table


@dataclass(frozen=True, slots=True)
class Results:
    """Everything a study found.

    Attributes:
        name: Name of the study and of its plot, ``<name>.png``.
        tables: Tables to read.
        notes: Sentences that are needed to read them.
        records: Flat rows for ``rows.csv``; all with the same keys.
        metrics: Flat numbers for ``metrics.json``.
        figure: The plot.
    """

    name: str
    tables: Sequence[ResultTable]
    notes: Sequence[str]
    records: Sequence[Mapping[str, object]]
    metrics: Mapping[str, float]
    figure: Figure
    caption: str = field(default="")

    def markdown(self) -> str:
        """Return tables, notes and a link to the plot, ready for a page of the documentation."""
        parts = [table.markdown() for table in self.tables]
        parts.append("\n".join(f"- {note}" for note in self.notes))
        parts.append(f"![{self.caption or self.name}]({self.name}.png)")
        return "\n\n".join(parts) + "\n"

    def render(self, console: Console) -> None:
        """Print tables and notes."""
        for table in self.tables:
            console.print(table.rich())
        for note in self.notes:
            console.print(escape(note), highlight=False)

    def write(self, folder: Path | str) -> None:
        """Write results.md, rows.csv, metrics.json and <name>.png, each at once."""
        target = Path(folder)
        write_text(target / "results.md", self.markdown())
        write_text(target / "rows.csv", csv_text(self.records))
        save_figure(self.figure, target / f"{self.name}.png")
        write_metrics(target / "metrics.json", self.metrics)


def csv_text(records: Sequence[Mapping[str, object]]) -> str:
    """Return records with the same keys as CSV."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    work = path.with_name(f".{path.name}")
    figure.savefig(work, dpi=DPI, format="png", bbox_inches="tight", metadata={"Software": None})
    work.replace(path)


def plain_axes(figure: Figure) -> Axes:
    """Return the figure's axes, without upper and right spines and with a faint grid."""
    ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(visible=True, axis="y", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    return ax
