"""``label``: ask a labeler for the missing labels of pairs, after measuring it on gold pairs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from rich.console import Console

from rlaif_pl.data.label_store import LabelStore
from rlaif_pl.data.labeling_pass import label_pairs
from rlaif_pl.data.preferences import write_preferences
from rlaif_pl.data.sources import DataSource, load_preferences
from rlaif_pl.evaluation.alignment import measure_alignment
from rlaif_pl.evaluation.gate import check_gate
from rlaif_pl.evaluation.metrics import write_metrics
from rlaif_pl.labeling.calibration import calibrated
from rlaif_pl.labeling.registry import build_labeler
from rlaif_pl.labeling.summary import summarize_labels
from rlaif_pl.types import Labeler


def label(
    pairs: DataSource | str,
    out: str,
    labeler: Labeler | str = "likelihood",
    store: str | None = None,
    gold: DataSource | str | None = None,
    fit_temperature_on: DataSource | str | None = None,
    gate: Literal["warn", "stop"] = "warn",
    min_alignment: float = 0.6,
    chunk: int = 64,
) -> int:
    """Label pairs and write the usable ones to OUT/labeled.jsonl.

    Every answer is kept in a store, so a job that was killed asks only for what is missing.

    Args:
        pairs: Pairs of responses; labels they have are not shown to the labeler.
        out: Folder for labeled.jsonl and metrics.json.
        labeler: ``likelihood``, ``pairwise``, or a class with its arguments.
        store: SQLite file of answers; by default OUT/labels.sqlite.
        gold: Pairs judged by people to measure the labeler on first; none are measured without.
        fit_temperature_on: Pairs judged by people to fit the labeler's temperature on, in place of the
            one it was given; use other pairs than ``gold``.
        gate: What to do where the labeler agrees too little with people.
        min_alignment: Least agreement with people, in [0, 1].
        chunk: Pairs asked for between two commits to the store.
    """
    started = time.monotonic()
    judge = build_labeler(labeler)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    metrics: dict[str, float] = {}
    if fit_temperature_on is not None:
        judge = calibrated(judge, load_preferences(fit_temperature_on).rows)
        metrics["label/temperature"] = judge.temperature
    if gold is not None:
        report = measure_alignment(judge, load_preferences(gold).rows)
        report.render(Console())
        check_gate(report, min_alignment, action=gate)
        metrics |= report.to_metrics("label/gold")
    rows = load_preferences(pairs).rows
    with LabelStore(store or str(folder / "labels.sqlite")) as answers:
        result = label_pairs(rows, judge, answers, chunk=chunk)
    write_preferences(folder / "labeled.jsonl", result.rows)
    summary = summarize_labels(result.answers)
    metrics |= summary.to_metrics("label")
    metrics |= {
        "label/reused": result.reused,
        "label/new": result.new,
        "label/seconds": time.monotonic() - started,
    }
    write_metrics(folder / "metrics.json", metrics)
    if not result.rows:
        raise ValueError(
            f"expected usable labels, got none for {len(rows)} pairs: {result.unusable}; "
            "try another labeler or prompt"
        )
    return 0
