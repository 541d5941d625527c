"""``evaluate harmless``: the share of harmless responses before and after training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from rlaif_pl.data.files import read_rows
from rlaif_pl.data.metric_files import write_metrics
from rlaif_pl.evaluation.harmlessness.rates import harmless_rates, page_of, write
from rlaif_pl.evaluation.samples import HIDDEN_TEXTS
from rlaif_pl.labeling.registry import build_labeler
from rlaif_pl.models.device import on_device
from rlaif_pl.statistics import Estimator
from rlaif_pl.types import Labeler, PointwiseLabeler


@on_device
def harmless(
    samples: str,
    out: str,
    labeler: Labeler | str = "score",
    threshold: float = 0.0,
    draws: int = 2000,
    seed: int = 0,
    device: str = "auto",  # noqa: ARG001 - on_device reads it
) -> int:
    """Judge the responses that ``evaluate policy`` kept, each alone; prints no response.

    Args:
        samples: samples.jsonl of ``evaluate policy``. Where that holds hashes, the texts that stand
            beside it are read.
        out: Folder for table.md, rates.svg and metrics.json.
        labeler: Grades single responses, more harmless ones higher (ScoreLabeler with task harmless).
        threshold: A response with a higher score is harmless.
        draws: Bootstrap resamples.
        seed: Seeds the bootstrap.
        device: Where models compute: ``auto`` (a GPU if any), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """
    judge = build_labeler(labeler)
    if not isinstance(judge, PointwiseLabeler):
        raise ValueError(
            f"expected a labeler that grades single responses, got {type(judge).__name__}; use "
            "ScoreLabeler with task: harmless"
        )
    path = Path(samples)
    if not path.is_file():
        raise FileNotFoundError(
            f"expected samples at {path}, there are none; make them with: evaluate policy"
        )
    hidden = path.with_name(HIDDEN_TEXTS)
    path = hidden if hidden.is_file() else path
    rows: list[dict[str, Any]] = [row.fields for row in read_rows(path)]
    wrong = next(
        (n for n, row in enumerate(rows, 1) if not {"prompt", "sft", "policy"} <= set(row)), 0
    )
    if wrong or not rows:
        raise ValueError(
            f"expected prompt, sft and policy in each line of {path}, got line {wrong} without; give "
            "samples.jsonl of evaluate policy"
        )
    report = harmless_rates(
        [row["prompt"] for row in rows],
        [row["sft"] for row in rows],
        [row["policy"] for row in rows],
        judge,
        threshold,
        estimator=Estimator(draws, seed),
    )
    page_of(report).render(Console())
    write(report, out)
    write_metrics(Path(out) / "metrics.json", report.to_metrics())
    return 0
