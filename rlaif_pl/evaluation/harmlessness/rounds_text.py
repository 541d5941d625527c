"""A study of revision rounds to read, as CSV and as a plot; no reply shown."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.figure import Figure

from rlaif_pl.data.metric_files import save_figure, write_csv, write_page
from rlaif_pl.evaluation.harmlessness.rounds import CHANCE, RevisionStudy, RoundResult
from rlaif_pl.evaluation.results import error_bars
from rlaif_pl.statistics import empty_interval
from rlaif_pl.tables import PERCENT, Cell, Column, Columns, Page, Table

PLOT = "rounds.svg"
COLORS = {"harmless": "#1b6ca8", "helpful": "#c2571a"}
GRAY = "#8a8a8a"


def page_of(study: RevisionStudy) -> Page:
    """Lay out the results and what its judges are worth."""
    columns: Columns = [
        "judge",
        "round",
        "against",
        Column("preferred, %", PERCENT),
        Column("at equal length, %", PERCENT),
        "words",
        "n",
        Column("reading", align="left"),
    ]
    rows = [_cells(study, result) for result in study.results]
    title = "Rounds of revision against earlier responses"
    return Page([Table(title, columns, rows)], notes(study), PLOT, "Preferred by round")


def notes(study: RevisionStudy) -> list[str]:
    """Return what has to be known to read the table, a sentence each."""
    lines = [judge.text() for judge in study.judges.values()]
    for judge in study.judges.values():
        if math.isfinite(judge.same_slot.value):
            lines.append(
                f"{judge.name}: the same slot won in both orders in {judge.same_slot.percent()} of "
                "people's pairs."
            )
    gone = {number: count for number, count in study.missing.items() if count}
    if gone:
        each = ", ".join(f"round {number}: {count}" for number, count in gone.items())
        lines.append(f"Of {study.prompts} prompts, left out for want of a revision: {each}.")
    lines.append(
        f"{study.prompts} prompts; both orders are judged; 95 % intervals by prompt; words are "
        "those of the later response over those of the earlier."
    )
    return lines


def write(study: RevisionStudy, folder: Path | str) -> None:
    """Write ``table.md``, ``tables.json``, ``rows.csv`` and ``rounds.svg`` into a folder."""
    records = [_record(study, result) for result in study.results]
    target = Path(folder)
    write_csv(target / "rows.csv", records)
    write_page(target, page_of(study), "table.md")
    save_figure(plot(study), target / PLOT)


def plot(study: RevisionStudy) -> Figure:
    """Draw the share preferred to the first answer by round.

    A judge that cannot tell is drawn in gray and dashed, so that nobody takes its line for a result.
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(100 * CHANCE, color="black", linewidth=0.8)
    for place, (name, judge) in enumerate(study.judges.items()):
        own = [r for r in study.results if r.judge == name and r.against == 0 and r.rate]
        shift = 0.06 * (place - (len(study.judges) - 1) / 2)
        error_bars(
            axes,
            [result.round + shift for result in own],
            [result.rate.raw for result in own if result.rate],
            marker="o",
            color=COLORS.get(name, "#444444") if judge.can_tell else GRAY,
            linestyle="-" if judge.can_tell else "--",
            label=name if judge.can_tell else f"{name} (judge not above chance: no evidence)",
        )
    axes.set_xticks(sorted({result.round for result in study.results}))
    axes.set_xlabel("round of critique and revision")
    axes.set_ylabel("preferred to the first answer, %")
    axes.set_ylim(0, 100)
    axes.legend(loc="best", fontsize="small")
    return figure


def _cells(study: RevisionStudy, result: RoundResult) -> list[Cell]:
    against = "first answer" if result.against == 0 else f"round {result.against}"
    known: list[Cell] = ["not measured", None, None, 0]
    if result.rate is not None:
        rate = result.rate
        ratio = f"× {rate.length_ratio:.2f}" if math.isfinite(rate.length_ratio) else None
        known = [rate.raw, rate.length_controlled, ratio, rate.raw.n]
    return [result.judge, result.round, against, *known, study.reading(result)]


def _record(study: RevisionStudy, result: RoundResult) -> dict[str, object]:
    """Flatten one result."""
    judge, rate, none = study.judges[result.judge], result.rate, empty_interval()
    return {
        "judge": result.judge,
        "round": result.round,
        "against": result.against,
        **(none if rate is None else rate.raw).to_record("preferred"),
        **(none if rate is None else rate.length_controlled).to_record("length_controlled"),
        "length_ratio": rate.length_ratio
        if rate is not None and math.isfinite(rate.length_ratio)
        else None,
        "n": 0 if rate is None else rate.raw.n,
        "ties": 0 if rate is None else rate.ties,
        "without_verdict": 0 if rate is None else sum(rate.failures.values()),
        "prompts_without_revision": study.missing[result.round],
        **judge.alignment.to_record("judge_alignment"),
        **judge.length_baseline.to_record("judge_length_baseline"),
        "judge_pairs": judge.alignment.n,
        "judge_gold": judge.gold,
        "judge_can_tell": judge.can_tell,
        "reading": study.reading(result),
    }
