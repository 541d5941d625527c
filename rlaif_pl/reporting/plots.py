"""Plots as inline SVG that takes its colors from the page, so they follow light and dark."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rlaif_pl.reporting.run import ShownWinRate
from rlaif_pl.statistics import Interval, ReliabilityBin

# Colors that stand in the SVG for the page's own; nothing else is drawn in them.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES = ("#040404", "#050505", "#060606")
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    **{color: f"var(--series-{n})" for n, color in enumerate(SERIES, 1)},
}
STYLE = {
    "svg.fonttype": "none",  # text stays text: it scales, is found and takes the page's font
    "svg.hashsalt": "rlaif_pl",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "text.parse_math": False,
    "text.color": INK,
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), GRID),
    **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), MUTED),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("axes.axisbelow", "axes.grid"), True),
    "grid.linewidth": 0.6,
}
SMOOTHED_FROM = 12  # points from which a curve gets a moving mean
TITLE_WIDTH = 46  # characters
DASHED = (0, (4, 3))
WIDE, SMALL = (7.2, 2.6), (3.6, 2.6)  # inches

Points = Sequence[tuple[int, float]]


def curve(points: Points, label: str, series: int = 0, level: float | None = None) -> str:
    """Draw a metric over steps: the points faintly and their moving mean, or just the points."""
    with _axes(SMALL) as (figure, axes):
        steps, values = zip(*points, strict=True)
        color = SERIES[series % len(SERIES)]
        if len(points) >= SMOOTHED_FROM:
            axes.plot(steps, values, color=color, linewidth=0.8, alpha=0.35)
            axes.plot(steps, moving_mean(values), color=color, linewidth=2.0)
        else:
            axes.plot(steps, values, color=color, linewidth=1.6, marker="o", markersize=3.5)
        if level is not None:
            axes.axhline(level, color=MUTED, linewidth=1.0, linestyle=DASHED)
        axes.set_xlabel("step")
        axes.set_title("\n".join(textwrap.wrap(label, TITLE_WIDTH)), loc="left", fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        return _svg(figure, f"curve-{label}")


def moving_mean(values: Sequence[float], share: float = 0.15) -> list[float]:
    """Centered moving mean over a share of the points; the window shrinks at both ends."""
    half = max(1, round(len(values) * share / 2))
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def forest(rates: Sequence[ShownWinRate]) -> str:
    """Draw win rates with their intervals around a line at 50 %."""
    with _axes((WIDE[0], 1.0 + 0.42 * len(rates))) as (figure, axes):
        rows = []
        for place, rate in zip(range(len(rates) - 1, -1, -1), rates, strict=True):
            color = SERIES[0] if rate.low is not None and rate.low > 0.5 else MUTED
            if rate.low is not None and rate.high is not None:
                limits = [100 * rate.low, 100 * rate.high]
                color = SERIES[1] if rate.high < 0.5 else color
                axes.plot(limits, [place, place], color=color, linewidth=2.2, solid_capstyle="butt")
            axes.plot([100 * rate.value], [place], marker="o", markersize=7, color=color)
            name = f"{_readable(rate.name)}\n({rate.stage})".removesuffix("\n()")
            rows.append((place, name, f"{100 * rate.value:.0f} %  (n = {rate.n})"))
        axes.set_ylim(-0.6, len(rates) - 0.4)
        _name_rows(axes, rows, "wins of the first, % (95 % interval; dashed: no difference)")
        return _svg(figure, "forest")


def bars(rows: Sequence[tuple[str, Interval, bool]]) -> str:
    """Draw named shares, some in the background color, as horizontal bars with a line at 50 %."""
    with _axes((WIDE[0], 0.9 + 0.45 * len(rows))) as (figure, axes):
        named = []
        for place, (name, row, is_baseline) in zip(range(len(rows) - 1, -1, -1), rows, strict=True):
            color = MUTED if is_baseline else SERIES[0]
            axes.barh(place, 100 * row.value, height=0.55, color=color, alpha=0.85)
            if math.isfinite(row.low):
                limits = [100 * row.low, 100 * row.high]
                axes.plot(limits, [place, place], color=INK, linewidth=1.6)
            named.append((place, name, f"{100 * row.value:.1f} %"))
        _name_rows(axes, named, "% of pairs (line: 95 % interval; dashed: chance)")
        return _svg(figure, "bars")


def _name_rows(axes: Axes, rows: Sequence[tuple[int, str, str]], label: str) -> None:
    """Name rows of shares on the left (place, name, figure), say them on the right; a line at 50 %."""
    for place, _, text in rows:
        axes.annotate(text, (1.01, place), xycoords=("axes fraction", "data"), va="center")
    axes.axvline(50, color=INK, linewidth=1.0, linestyle=DASHED)
    axes.set_yticks([place for place, *_ in rows], [name for _, name, _ in rows])
    axes.set(xlim=(0, 100), xlabel=label)
    axes.grid(visible=False, axis="y")


def reliability(bins: Sequence[ReliabilityBin]) -> str:
    """Draw accuracy against confidence; a calibrated model lies on the diagonal."""
    with _axes((3.8, 3.4)) as (figure, axes):
        most = max(row.count for row in bins)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1.0, linestyle=DASHED)
        filled = [row for row in bins if row.count]
        x, y = [row.confidence for row in filled], [row.accuracy for row in filled]
        axes.plot(x, y, color=SERIES[0], linewidth=1.2, alpha=0.5)
        sizes = [20 + 120 * row.count / most for row in filled]
        axes.scatter(x, y, s=sizes, color=SERIES[0], linewidths=0)
        axes.set(xlabel="predicted probability", ylabel="share that came true")
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        return _svg(figure, "reliability")


def histogram(counts: Sequence[int], label: str) -> str:
    """Draw counts in bins of equal width over [0, 1]."""
    with _axes(SMALL) as (figure, axes):
        width = 1 / len(counts)
        places = [(number + 0.5) * width for number in range(len(counts))]
        axes.bar(places, counts, width=0.9 * width, color=SERIES[0], alpha=0.85)
        axes.set(xlim=(0, 1), xlabel=label, ylabel="pairs")
        axes.grid(visible=False, axis="x")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        return _svg(figure, f"histogram-{label}")


@contextmanager
def _axes(size: tuple[float, float]) -> Iterator[tuple[Figure, Axes]]:
    with matplotlib.rc_context(cast(Any, STYLE)):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, figure.subplots()


def _svg(figure: Figure, name: str) -> str:
    """Return a figure as an ``svg`` element with the page's colors and identifiers of its own."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, variable)
    # Several plots share one page, so identifiers carry the plot's name.
    prefix = re.sub(r"[^a-z0-9]+", "-", name.lower())
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    for size in ("width", "height"):  # the page sets the width; the view box keeps the shape
        svg = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", '<svg role="img"', 1).strip()


def _readable(name: str) -> str:
    """Turn ``policy_vs_sft_independent`` into ``policy vs sft, independent``."""
    head, _, tail = name.partition("_vs_")
    against, _, how = tail.replace("_", " ").partition(" ")
    if not against:
        return name.replace("_", " ")
    return f"{head} vs {against}" + (f", {how}" if how else "")
