"""What a study leaves: tables and notes, rows as CSV, numbers, a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from rlaif_pl.data.metric_files import save_figure, write_csv, write_metrics, write_page
from rlaif_pl.statistics import Interval
from rlaif_pl.tables import Page, Table

COLORS = ("#3b6fb6", "#d1603d", "#4c9a6a", "#8a63a8", "#b8892b", "#6b7280")


@dataclass(frozen=True, slots=True)
class StudyResults:
    """Everything a study found."""

    name: str  # name of the study and of its plot, `<name>.png`
    tables: Sequence[Table]
    notes: Sequence[str]  # sentences that are needed to read the tables
    records: Sequence[Mapping[str, object]]  # flat rows for `rows.csv`; all with the same keys
    metrics: Mapping[str, float]  # flat numbers for `metrics.json`
    figure: Figure
    caption: str = ""  # of the figure

    @property
    def page(self) -> Page:
        """Tables and notes, with the plot."""
        return Page(self.tables, self.notes, f"{self.name}.png", self.caption)

    def write(self, folder: Path | str) -> None:
        """Write results.md, tables.json, rows.csv, metrics.json and <name>.png, each at once."""
        target = Path(folder)
        write_page(target, self.page)
        write_csv(target / "rows.csv", self.records)
        save_figure(self.figure, target / f"{self.name}.png")
        write_metrics(target / "metrics.json", self.metrics)


def error_bars(
    axes: Axes, places: ArrayLike, intervals: Sequence[Interval], scale: float = 100, **style: Any
) -> None:
    """Draw estimates, shares in percent, as points with their limits; one without has no bar."""
    values = np.array([scale * i.value for i in intervals])
    low = values - [scale * i.low for i in intervals]
    high = np.array([scale * i.high for i in intervals]) - values
    limits = np.nan_to_num(np.clip([low, high], 0, None))
    axes.errorbar(places, values, limits, capsize=3, **style)


def plain_axes(figure: Figure) -> Axes:
    """Return the figure's axes, without upper and right spines and with a faint grid."""
    ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(visible=True, axis="y", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    return ax
