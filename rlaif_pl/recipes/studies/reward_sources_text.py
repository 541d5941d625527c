"""Study 1 laid out: tables, notes, rows, numbers and the plot of ``reward_sources``."""

from __future__ import annotations

import itertools
import textwrap

import numpy as np
from matplotlib.figure import Figure

from rlaif_pl.evaluation.results import COLORS, StudyResults, error_bars, plain_axes
from rlaif_pl.recipes.studies.reward_sources import ALL, SourcesReport
from rlaif_pl.tables import PERCENT, POINTS, Cell, Column, Columns, Table


def to_results(report: SourcesReport) -> StudyResults:
    """Lay a report out."""
    strata = list(report.judges[0].accuracy)
    header: Columns = [
        "judge",
        *(Column(f"{name}, %", PERCENT) for name in strata),
        *(Column(name, ".3f") for name in ("ECE", "Brier")),
        Column("sd over seeds, points", ".1f"),
    ]
    body: list[list[Cell]] = [
        [j.name, *(j.accuracy[name] for name in strata), j.ece, j.brier, 100 * j.seed_spread]
        for j in report.judges
    ]
    differences: list[list[Cell]] = [
        [f"{c.first} - {c.second}", c.difference, 100 * c.detectable, c.p_adjusted]
        for c in report.comparisons
    ]
    seeds = ", ".join(f"{method}: {count}" for method, count in report.seeds.items())
    notes = [
        f"{report.pairs} pairs that {report.gold} decided, of {report.posts} posts; {report.folds} "
        f"folds by post, every pair judged by models that saw nothing of its post; seeds {seeds}.",
        f"{report.labeled} pairs have an AI label. Intervals (95 %) and differences by bootstrap over "
        "posts; a pair counts with its mean over seeds.",
        '"head": a logistic head on the frozen model\'s states; "top": adapters on the upper layers '
        "trained from there.",
        "Detectable: the true difference that this sample would find with 80 % power. A smaller one "
        "can be there unseen; p is adjusted for the number of comparisons (Holm).",
    ]
    return StudyResults(
        "reward_sources",
        [
            Table(f"Agreement with {report.gold} on held-out pairs", header, body),
            Table(
                "Differences on the same pairs, points",
                [
                    "difference",
                    Column("points", POINTS),
                    Column("detectable", ".1f"),
                    Column("p, adjusted", ".2g"),
                ],
                differences,
            ),
        ],
        notes,
        _records(report),
        _metrics(report),
        _figure(report),
        "Accuracy of reward models on held-out verdicts, by whose labels they were trained on",
    )


def _records(report: SourcesReport) -> list[dict[str, object]]:
    return [
        {
            "judge": judge.name,
            "votes": stratum,
            "accuracy": interval.value,
            "low": interval.low,
            "high": interval.high,
            "pairs": interval.n,
            "ece": judge.ece if stratum == ALL else "",
            "brier": judge.brier if stratum == ALL else "",
            "sd_over_seeds": judge.seed_spread if stratum == ALL else "",
        }
        for judge in report.judges
        for stratum, interval in judge.accuracy.items()
    ]


def _metrics(report: SourcesReport) -> dict[str, float]:
    metrics: dict[str, float] = {"sources/pairs": report.pairs, "sources/posts": report.posts}
    for judge in report.judges:
        name = f"sources/{_slug(judge.name)}"
        for stratum, interval in judge.accuracy.items():
            metrics |= interval.to_metrics(f"{name}/accuracy_{stratum}")
        metrics |= {f"{name}/ece": judge.ece, f"{name}/brier": judge.brier}
    for c in report.comparisons:
        name = f"sources/{_slug(c.first)}_minus_{_slug(c.second)}"
        metrics |= c.difference.to_metrics(name)
        metrics |= {f"{name}_detectable": c.detectable, f"{name}_p": c.p_adjusted}
    return {key: value for key, value in metrics.items() if np.isfinite(value)}


def _slug(name: str) -> str:
    return name.lower().replace(", ", "_").replace(" ", "_")


def _figure(report: SourcesReport) -> Figure:
    figure = Figure(figsize=(7.2, 3.2))
    ax = plain_axes(figure)
    strata = list(report.judges[0].accuracy)
    width = 0.8 / len(strata)
    for number, (stratum, color) in enumerate(zip(strata, itertools.cycle(COLORS), strict=False)):
        intervals = [judge.accuracy[stratum] for judge in report.judges]
        place = np.arange(len(intervals)) + (number - (len(strata) - 1) / 2) * width
        error_bars(ax, place, intervals, fmt="o", color=color, label=stratum)
    ax.axhline(50, color="#999999", linewidth=0.8, linestyle=":")
    names = [textwrap.fill(judge.name.replace(", ", "\n"), 10) for judge in report.judges]
    ax.set_xticks(np.arange(len(names)), names, fontsize=8)
    ax.set_ylabel(f"agreement with {report.gold}, %")
    ax.legend(title="votes", frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
