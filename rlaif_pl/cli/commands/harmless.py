"""``evaluate harmless``: the share of harmless responses before and after training."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from rich.console import Console

from rlaif_pl.data.files import RawRow, read_rows
from rlaif_pl.data.metric_files import write_metrics
from rlaif_pl.evaluation.harmlessness.rates import harmless_rates, page_of, write
from rlaif_pl.evaluation.samples import group_in, samples_at
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
            beside it are read. Or rows with prompt, sft, policy (lists of texts) and, if any, group.
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
    path = samples_at(samples)
    rows = [both_of(row) for row in read_rows(path)]
    if not rows:
        raise ValueError(f"expected samples in {path}, it is empty; run evaluate policy again")
    texts, groups, sft, policy = zip(*rows, strict=True)
    report = harmless_rates(
        texts,
        sft,
        policy,
        judge,
        threshold,
        groups=groups,
        estimator=Estimator(draws, seed),
    )
    page_of(report).render(Console())
    write(report, out)
    write_metrics(Path(out) / "metrics.json", report.to_metrics())
    return 0


def both_of(row: RawRow) -> tuple[str, str, list[str], list[str]]:
    """Return prompt, group and the responses of both policies. ``ValueError``: the row has others."""
    prompt, *both = (row.fields.get(name) for name in ("prompt", "sft", "policy"))
    are_texts = [
        isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)
        for texts in both
    ]
    if not isinstance(prompt, str) or not all(are_texts):
        kinds = ", ".join(type(value).__name__ for value in (prompt, *both))  # never a text
        raise ValueError(
            f"{row.where}: expected prompt to be text, sft and policy lists of texts, none of them "
            f"empty, got {kinds}; give samples.jsonl of evaluate policy"
        )
    sft, policy = cast("list[list[str]]", both)
    return prompt, group_in(row.fields, prompt), sft, policy
