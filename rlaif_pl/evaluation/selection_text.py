"""The candidates of ``select`` beside each other, and what the choice is worth: table and plot."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from rlaif_pl.evaluation.results import COLORS, error_bars, plain_axes
from rlaif_pl.evaluation.selection import JudgedCandidate
from rlaif_pl.tables import PERCENT, Column, Columns, Page, Rows, Table
from rlaif_pl.text import judge_name

PLOT = "candidates.svg"


def page_of(judged: Sequence[JudgedCandidate], chosen: JudgedCandidate) -> Page:
    """Lay candidates out, the highest validation reward first, with what to know to read them."""
    columns: Columns = [
        "step",
        Column("validation reward", ".4g"),
        Column("wins against SFT, %", PERCENT),
        Column("at equal length, %", PERCENT),
        Column("words, policy / SFT", ".2f"),
        Column("unfinished, %", PERCENT),
        "",
    ]
    rows: Rows = [
        [
            each.candidate.step,
            each.candidate.value,
            each.rate.raw,
            each.rate.length_controlled,
            each.rate.length_ratio,
            each.unfinished,
            "chosen" * (each is chosen),
        ]
        for each in _ranked(judged)
    ]
    prompts = f"{chosen.rate.raw.n} development prompts"
    judge = f"{prompts}, judged by {judge_name(chosen.rate.judge)}; 95 % intervals by prompt."
    table = Table("Checkpoints against SFT", columns, rows)
    return Page([table], [reading(judged, chosen), judge], PLOT, "Wins against SFT by checkpoint")


def reading(judged: Sequence[JudgedCandidate], chosen: JudgedCandidate) -> str:
    """Say which was chosen and how much the choice is worth."""
    won = chosen.rate.raw
    text = f"Step {chosen.candidate.step} won most against SFT and was exported: {won.percent()}."
    others = [each.rate.raw for each in judged if each is not chosen]
    if not others:
        return f"{text} It was the only candidate, so nothing was compared."
    close = sum(rate.high >= won.value or math.isnan(rate.high) for rate in others)
    if close:
        text += (
            f" Of the {len(others)} other candidates {close} have intervals that reach up to that, so "
            "the choice may be luck."
        )
    return (
        f"{text} These prompts served to choose it, so its rate is too good by what the luckiest of "
        "several gains: report on other prompts (evaluate policy), and by a judge that neither labeled "
        "the pairs nor chose here."
    )


def plot(judged: Sequence[JudgedCandidate], chosen: JudgedCandidate) -> Figure:
    """Draw the candidates' wins with their intervals, and a line where neither side wins."""
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes = plain_axes(figure)
    ranked = _ranked(judged)
    places = list(range(len(ranked)))
    error_bars(axes, places, [each.rate.raw for each in ranked], fmt="o", color=COLORS[0])
    axes.axhline(50, color="black", linewidth=0.8, linestyle="--")
    names = [f"step {each.candidate.step}" + "\nchosen" * (each is chosen) for each in ranked]
    axes.set_xticks(places, names)
    axes.set_xlim(-0.5, len(ranked) - 0.5)
    axes.set_ylabel("wins against SFT, %")
    return figure


def _ranked(judged: Sequence[JudgedCandidate]) -> list[JudgedCandidate]:
    return sorted(judged, key=lambda each: (-each.candidate.value, each.candidate.step))
