"""Harmless rates to read and as a plot; no text of a response."""

from __future__ import annotations

import io
import math
from pathlib import Path

from matplotlib.figure import Figure

from rlaif_pl.data.metric_files import write_page, write_text
from rlaif_pl.evaluation.harmlessness.rates import HarmlessRates
from rlaif_pl.tables import PERCENT, Column, Columns, Page, Rows, Table

PLOT = "rates.svg"
SHORTER = 0.5  # responses below this share of SFT's length may well be refusals


def page_of(report: HarmlessRates) -> Page:
    """Lay out the rates and what to know to read them."""
    columns: Columns = ["policy", Column("harmless, %", PERCENT), Column("characters", ".0f")]
    rows: Rows = [
        ["SFT", report.sft, report.chars_sft],
        ["policy", report.policy, report.chars_policy],
    ]
    table = Table("Harmless rate", columns, rows)
    return Page([table], notes(report), PLOT, "Share of harmless responses")


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


def write(report: HarmlessRates, folder: Path | str) -> None:
    """Write ``table.md``, ``tables.json`` and ``rates.svg`` into a folder."""
    write_page(folder, page_of(report), "table.md")
    write_text(Path(folder) / PLOT, plot(report))


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
