"""``label``: ask a labeler for the missing labels of pairs, after measuring it on gold pairs."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from rlaif_pl.cli.commands.alignment import announced
from rlaif_pl.data.failures import advice, causes
from rlaif_pl.data.label_store import LabelStore
from rlaif_pl.data.labeling_pass import LabelingResult, label_pairs, missing_pairs
from rlaif_pl.data.metric_files import write_json, write_metrics
from rlaif_pl.data.preferences import write_preferences
from rlaif_pl.data.sources import DataSource, load_preferences
from rlaif_pl.evaluation.agreement.measure import QualityThresholds, measure_alignment
from rlaif_pl.labeling.registry import build_labeler
from rlaif_pl.labeling.strategies.ensemble import KeepsReplies
from rlaif_pl.labeling.strategy import calibrate
from rlaif_pl.labeling.usage.projection import backends_of, watched
from rlaif_pl.labeling.usage.reply_store import ReplyStore
from rlaif_pl.labeling.usage.spending import BudgetTracker, OutOfBudget, refuse_unpriced
from rlaif_pl.labeling.usage.summary import LABELS_FILE, summarize_labels
from rlaif_pl.models.device import on_device
from rlaif_pl.types import Labeler


@on_device
def label(
    pairs: DataSource | str,
    out: str,
    labeler: Labeler | str = "likelihood",
    store: str | None = None,
    replies: str | None = None,
    gold: DataSource | str | None = None,
    fit_temperature_on: DataSource | str | None = None,
    gate: QualityThresholds = QualityThresholds(),  # noqa: B008 - frozen
    chunk: int = 64,
    max_cost: float | None = None,
    retry_failed: bool = False,
    device: str = "auto",  # noqa: ARG001 - on_device reads it
) -> int:
    """Label pairs and write the usable ones to OUT/labeled.jsonl.

    Every reply of the model and every answer is kept, so a job that was killed, or stopped at
    ``max_cost``, asks only for what is missing when it is run again. Failures that may have passed
    (timeouts, a server's errors and refusals) are then asked for once more.

    Args:
        pairs: Pairs of responses; labels they have are not shown to the labeler.
        out: Folder for labeled.jsonl, metrics.json and labels.json (what the report draws).
        labeler: ``likelihood``, ``pairwise``, or a class with its arguments.
        store: SQLite file of labels; by default OUT/labels.sqlite.
        replies: SQLite file of the model's replies; by default OUT/replies.sqlite.
        gold: Pairs judged by people to measure the labeler on first; none are measured without.
        fit_temperature_on: Pairs judged by people to fit the labeler's temperature on, in place of the
            one it was given; use other pairs than ``gold``.
        gate: What is asked of the labeler on ``gold``, and what follows where it falls short.
        chunk: Pairs asked for between two commits to the store of labels.
        max_cost: Stop when this run has spent so many USD; calls in flight are still awaited and kept.
            A server needs ``prices`` for it.
        retry_failed: Ask again for every failure, also those that are likely to come back the same.
        device: Where models compute: ``auto`` (a GPU if any), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """
    started = time.monotonic()
    judge, spending, folder = build_labeler(labeler), BudgetTracker(max_cost), Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    refuse_unpriced(max_cost, backends_of(judge))
    rows = load_preferences(pairs).rows
    metrics: dict[str, float] = {}
    with ExitStack() as files:
        answers = files.enter_context(LabelStore(store or str(folder / "labels.sqlite")))
        path = replies or str(folder / "replies.sqlite")
        kept = keep_replies(judge, path, spending, files, retry_failed)
        try:
            if fit_temperature_on is not None:
                people = load_preferences(fit_temperature_on).rows
                metrics["label/temperature"] = calibrate(judge, people)
            if gold is not None:
                report = measure_alignment(judge, load_preferences(gold).rows)
                report.render(Console())
                gate.check(report)
                metrics |= report.to_metrics("labeler")
            missing = missing_pairs(
                rows, judge.fingerprint, answers, retry_failed, retry_transient=True
            )
            pace = announced(judge, missing, say)
            if pace is not None:
                files.enter_context(watched(judge, pace.count))

            def note() -> str:
                return ", ".join(filter(None, [spending.line(), pace.line() if pace else ""]))

            result = label_pairs(
                rows,
                judge,
                answers,
                chunk=chunk,
                retry_failed=retry_failed,
                retry_transient=True,
                note=None if kept is None else note,
            )
        except OutOfBudget as stop:
            write_metrics(folder / "metrics.json", metrics | totals_of(kept, spending))
            left = len(missing_pairs(rows, judge.fingerprint, answers, retry_transient=True))
            raise OutOfBudget(
                f"{stop}: {len(rows) - left} of {len(rows)} pairs are labeled, {spending.calls} calls "
                "were made in this run and all are kept; run the same command again (max_cost counts "
                "each run) and it goes on from here without repeating any of them"
            ) from stop
        metrics |= totals_of(kept, spending)
    metrics["label/seconds"] = time.monotonic() - started
    write_results(folder, result, metrics)
    return 0


def write_results(folder: Path, result: LabelingResult, metrics: dict[str, float]) -> None:
    """Write the labels, what the report draws of them, and all metrics; ``ValueError``: no labels."""
    write_preferences(folder / "labeled.jsonl", result.rows)
    summary = summarize_labels(result.answers)
    for note in summary.notes():
        say(note)
    write_json(folder / LABELS_FILE, summary.to_json())
    counts = {"label/reused": float(result.reused), "label/new": float(result.new)}
    write_metrics(folder / "metrics.json", metrics | summary.to_metrics("label") | counts)
    if not result.rows:
        raise ValueError(
            f"the labeler gave no usable label for {len(result.answers)} pairs: "
            f"{causes(result.unusable)}. {advice(result.unusable)}"
        )


def keep_replies(
    labeler: Labeler, path: str, spending: BudgetTracker, files: ExitStack, retry_failed: bool
) -> ReplyStore | None:
    """Attach a store of replies and the counting of what they cost; None for a labeler without.

    ``ValueError``: a limit is set for a labeler whose spending is unknown.
    """
    if isinstance(labeler, KeepsReplies):
        store = files.enter_context(ReplyStore(path, retry_failed=retry_failed))
        labeler.keep_replies(store, spending.count)
        return store
    if spending.max_cost is not None:
        raise ValueError(
            f"expected a labeler whose calls can be counted for max_cost, got "
            f"{type(labeler).__name__}; leave max_cost out"
        )
    return None


def say(line: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(line + "\n")


def totals_of(store: ReplyStore | None, spending: BudgetTracker) -> dict[str, float]:
    """Metrics of this run's calls and of all calls in the store."""
    if store is None:
        return {}
    totals = store.totals()
    failed = {f"label/calls_{kind}": float(count) for kind, count in totals.failures.items()}
    return spending.to_metrics("label") | totals.to_metrics("label") | failed
