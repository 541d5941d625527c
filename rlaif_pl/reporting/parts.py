"""The sections that a page has only where a stage left something for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from rlaif_pl.reporting import plots, rest_steps, selection
from rlaif_pl.reporting.alarms import COUNT, Alarm
from rlaif_pl.reporting.results import title_of
from rlaif_pl.reporting.run import Run
from rlaif_pl.tables import Cell, Column, Table


@dataclass(frozen=True, slots=True)
class AlarmPart:
    """A stage that was watched for reward hacking."""

    stage: str  # its name
    outcome: str  # what was done, in words
    alarms: Sequence[Alarm]  # what went off; none where nothing did

    @property
    def table(self) -> Table:
        """What went off, as a table."""
        columns = ["alarm", "went off at step", "beyond the limit since"]
        numbers = [Column("value", ".3g"), Column("limit", ".3g")]
        rows: list[list[Cell]] = [
            [a.text, a.step, a.since, float(a.value), float(a.limit)] for a in self.alarms
        ]
        return Table("", [*columns, *numbers], rows)


@dataclass(frozen=True, slots=True)
class TablePart:
    """What a stage shows as tables."""

    stage: str  # its name
    title: str  # of the part
    tables: Sequence[Table]  # its tables
    notes: Sequence[str]  # sentences that are needed to read them
    plot: Markup | None = None  # an `svg` element in the page's colors, or None
    image: str = ""  # address of a plot that has its own colors, or ""
    caption: str = ""  # of the plot


def alarm_parts(run: Run) -> list[AlarmPart]:
    """Return the stages that were watched, with what went off."""
    found = []
    for stage in run.stages:
        if stage.alarms is not None:
            outcome = stage.alarms.outcome() if stage.is_finished else "The stage is not finished."
            found.append(AlarmPart(stage.name, outcome, stage.alarms.alarms))
        elif COUNT in stage.history:
            steps = len(stage.history[COUNT])
            found.append(AlarmPart(stage.name, f"Watched at {steps} logged steps; no alarm.", ()))
    return found


def selection_parts(run: Run) -> list[TablePart]:
    """Return the stages that chose a checkpoint."""
    found = []
    for stage in run.stages:
        judged = selection.candidates(stage.metrics)
        if not judged:
            continue
        table = selection.table_of(judged)
        notes = [
            selection.reading(judged),
            f"{judged[0].prompts} development prompts, judged by the labeler in this stage's config.",
        ]
        plot = plots.forest([each.win_rate for each in judged], f"selection {stage.name}")
        found.append(TablePart(stage.name, stage.name, [table], notes, Markup(plot)))
    return found


def result_parts(run: Run) -> list[TablePart]:
    """Return the stages that left tables of results."""
    return [
        TablePart(
            stage.name,
            title_of(stage.name, stage.command, stage.metrics),
            stage.results.page.tables,
            stage.results.page.notes,
            None,
            stage.results.plot,
            stage.results.page.caption,
        )
        for stage in run.stages
        if stage.results is not None
    ]


def rest_parts(run: Run) -> list[TablePart]:
    """Return the stages that trained by ReST."""
    found = []
    for stage in run.stages:
        if not stage.rest:
            continue
        table = rest_steps.table_of(stage.rest)
        names = [step.name for step in stage.rest]
        rows = [step.limits() for step in stage.rest]
        plot = plots.steps(names, rows, "validation reward", f"rest {stage.name}")
        notes = [rest_steps.reading(stage.rest)]
        found.append(TablePart(stage.name, stage.name, [table], notes, Markup(plot)))
    return found
