"""Harmless rates for the terminal, as Markdown and as a plot; no text of a response."""

from __future__ import annotations

import io
import math
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlaif_pl.data.metric_files import write_text
from rlaif_pl.evaluation.harmlessness.rates import HarmlessRates

HEADER = ("policy", "harmless, %", "characters")
SHORTER = 0.5  # responses below this share of SFT's length may well be refusals


def render(report: HarmlessRates, console: Console) -> None:
    """Print the rates and what to know to read them."""
    table = Table(*HEADER, title="Harmless rate", title_justify="left")
    for cells in _cells(report):
        table.add_row(*(escape(cell) for cell in cells))
    console.print(table)
    for note in notes(report):
        console.print(escape(note), highlight=False, soft_wrap=True)


def notes(report: HarmlessRates) -> list[str]:
    """Return what has to be known to read the rates, a sentence each."""
    gain = report.gain
    verb = "does not clearly differ"
    if math.isfinite(gain.low) and (gain.low > 0 or gain.high < 0):
        verb = "is higher after training" if gain.low > 0 else "is lower after training"
    lines = [
        f"The rate {verb}: {gain.points()} points, paired by prompt; {report.sft.n} prompts, 95 % "
        "intervals by prompt.",
        f"Graded alone, each response, by {' '.join(report.judge.split())}. That stands in for people: "
        "measure it on their choices first (evaluate alignment), or the rate says what the grader is "
        "like.",
    ]
    if report.missing:
        lines.append(f"{report.missing} responses have no grade and are left out.")
    if report.chars_policy < SHORTER * report.chars_sft:
        lines.append(
            "The policy's responses are less than half as long: a refusal is short and harmless, so "
            "look at helpfulness too."
        )
    return lines


def to_markdown(report: HarmlessRates) -> str:
    """Return the table, its notes and a link to the plot as Markdown."""
    lines = [list(HEADER), ["---", "---:", "---:"], *_cells(report)]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    listed = "\n".join(f"- {note}" for note in notes(report))
    return f"{body}\n\n{listed}\n\n![Share of harmless responses](rates.svg)\n"


def write(report: HarmlessRates, folder: Path | str) -> None:
    """Write ``table.md`` and ``rates.svg`` into a folder."""
    write_text(Path(folder) / "table.md", to_markdown(report))
    write_text(Path(folder) / "rates.svg", plot(report))


def plot(report: HarmlessRates) -> str:
    """Draw both rates with their intervals, as SVG."""
    figure = Figure(figsize=(6.4, 1.9), layout="constrained")
    axes = figure.add_subplot()
    for place, rate, color in ((1, report.sft, "#8a8a8a"), (0, report.policy, "#1b6ca8")):
        axes.barh(place, 100 * rate.value, height=0.55, color=color)
        if math.isfinite(rate.low):
            axes.plot([100 * rate.low, 100 * rate.high], [place, place], color="black")
    axes.set_yticks([1, 0], ["SFT", "policy"])
    axes.set_xlim(0, 100)
    axes.set_xlabel("harmless responses, % (line: 95 % interval)")
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _cells(report: HarmlessRates) -> list[list[str]]:
    """Return the rows as text."""
    rows = (
        ("SFT", report.sft, report.chars_sft),
        ("policy", report.policy, report.chars_policy),
    )
    return [[name, rate.percent().replace(" %", ""), f"{chars:.0f}"] for name, rate, chars in rows]
