"""Write ``report.html``: one file that needs nothing beside it."""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup

from rlaif_pl.data.metric_files import write_text
from rlaif_pl.evaluation.pairs import judges_in
from rlaif_pl.reporting import plots, sections, verdict
from rlaif_pl.reporting.files import COUNT, title_of
from rlaif_pl.reporting.run import ReportStage, Run, read_run
from rlaif_pl.tables import Table, duration

SHOWN_SAMPLES = 8  # open; the others up to MOST_SAMPLES are folded away
MOST_SAMPLES = 60
TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("rlaif_pl.reporting", "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
TEMPLATES.filters["number"] = lambda value: f"{value:.3g}"


def write_report(run_dir: Path) -> Path:
    """Write ``<run_dir>/report.html`` (see ``run``). ``ValueError``: there is no such folder."""
    run = read_run(Path(run_dir))
    return write_text(Path(run_dir) / "report.html", render(run))


def render(run: Run) -> str:
    """Return the page of a run."""
    gaps, metrics, stage = run.order_gaps, run.metrics, sections.reinforced(run)
    bars, rows = sections.alignment_bars(metrics), sections.metric_rows(run)
    judged = verdict.judge(run)
    with_history = [s for s in run.stages if s.history]
    found = [s for s in run.stages if s.results is not None]
    return TEMPLATES.get_template("report.html.j2").render(
        run=run,
        verdict=judged,
        is_study=not judged.findings,
        warnings=[*verdict.warnings_of(run), *sections.label_warnings(metrics)],
        rows=[row for row in rows if row.meaning],
        more_rows=[row for row in rows if not row.meaning],
        alarms=alarm_parts(run),
        results=[(s.name, title_of(s.name, s.command, s.metrics), s.results) for s in found],
        facts=sections.fact_rows(run.stages),
        reinforced=stage,
        curves=[(title, svg and Markup(svg)) for title, svg in sections.training_curves(stage)],
        more_curves=[
            (s.name, [Markup(svg) for svg in sections.all_curves(s)]) for s in with_history
        ],
        win_rates=Markup(plots.forest(run.win_rates)) if run.win_rates else None,
        reliability=Markup(plots.reliability(run.reliability)) if run.reliability else None,
        alignment=Markup(plots.bars(bars)) if bars else None,
        judges=judges_in(metrics, "labeler"),
        outcomes=sections.outcome_lines(metrics),
        # of a labeler measured on gold pairs only, what these say
        position=sections.position_lines(metrics) or sections.position_lines(metrics, "labeler"),
        costs=sections.cost_lines(metrics) or sections.cost_lines(metrics, "labeler/cost"),
        order_gaps=Markup(plots.histogram(gaps, "gap between the two orders")) if gaps else None,
        shown=run.samples[:SHOWN_SAMPLES],
        folded=run.samples[SHOWN_SAMPLES:MOST_SAMPLES],
        times=stage_times(run),
        total=duration(sum(s.seconds or 0.0 for s in run.stages)),
    )


def alarm_parts(run: Run) -> list[tuple[str, str, Table | None]]:
    """Return the stages watched for reward hacking: name, what was done, and what went off, if any."""
    found: list[tuple[str, str, Table | None]] = []
    for stage in run.stages:
        if stage.alarms is not None:
            outcome = stage.alarms.outcome() if stage.is_finished else "The stage is not finished."
            found.append((stage.name, outcome, stage.alarms.table()))
        elif COUNT in stage.history:
            steps = len(stage.history[COUNT])
            found.append((stage.name, f"Watched at {steps} logged steps; no alarm.", None))
    return found


def stage_times(run: Run) -> list[tuple[ReportStage, str, float]]:
    """Return stages, how long each took in words, and of the longest stage, in [0, 1]."""
    longest = max((stage.seconds or 0.0 for stage in run.stages), default=0.0) or 1.0

    def text(stage: ReportStage) -> str:
        if stage.seconds is not None:
            return duration(stage.seconds)
        return "not timed" if stage.is_finished else "not finished"

    return [(stage, text(stage), (stage.seconds or 0.0) / longest) for stage in run.stages]
