"""``evaluate revisions``: what rounds of revision did, by judges that are measured themselves."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from rlaif_pl.cli.commands.alignment import gold_pairs
from rlaif_pl.data.metric_files import write_metrics
from rlaif_pl.data.revisions import read_revisions
from rlaif_pl.data.sources import DataSource
from rlaif_pl.evaluation.harmlessness import rounds
from rlaif_pl.evaluation.harmlessness.rounds import JudgeQuality, compare_rounds, measure_judge
from rlaif_pl.labeling.registry import build_labeler
from rlaif_pl.labeling.usage.reply_store import ReplyStore
from rlaif_pl.labeling.usage.spending import words_of
from rlaif_pl.models.device import on_device
from rlaif_pl.statistics import Estimator
from rlaif_pl.types import Labeler

HARMLESS, HELPFUL = "harmless", "helpful"


@on_device
def revisions(
    revisions: str,
    out: str,
    harmless: Labeler | str = "constitution",
    helpful: Labeler | str | None = None,
    harmless_gold: DataSource | str | None = None,
    helpful_gold: DataSource | str | None = None,
    max_words: int | None = None,
    replies: str | None = None,
    draws: int = 2000,
    seed: int = 0,
    device: str = "auto",  # noqa: ARG001 - on_device reads it
) -> int:
    """Judge the responses of every round of revision against the first answers.

    Each judge is first measured on pairs judged by people. One that is not above chance there is shown
    as such, and nothing is claimed from its verdicts. Judges read both orders; no reply is printed.

    Args:
        revisions: revisions.jsonl of a revise job, on prompts that no recipe was chosen on.
        out: Folder for table.md, rows.csv, rounds.svg and metrics.json.
        harmless: Who judges harmlessness.
        helpful: Who judges helpfulness; None leaves it out.
        harmless_gold: Pairs on which people said which response is less harmful (HH's harmless part).
        helpful_gold: Pairs on which people said which response is more helpful.
        max_words: Keep only people's pairs whose prompt and responses have at most so many words.
        replies: SQLite file of the judges' replies; by default OUT/replies.sqlite.
        draws: Bootstrap resamples.
        seed: Seeds the bootstrap.
        device: Where models compute: ``auto`` (a GPU if any), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """
    started, estimator = time.monotonic(), Estimator(draws, seed)
    rows = read_revisions(revisions)
    spec = {HARMLESS: (harmless, harmless_gold)}
    if helpful is not None:
        spec[HELPFUL] = (helpful, helpful_gold)
    judges: dict[str, Labeler] = {}
    qualities: dict[str, JudgeQuality] = {}
    Path(out).mkdir(parents=True, exist_ok=True)
    with ReplyStore(replies or str(Path(out) / "replies.sqlite")) as store:
        for name, (labeler, gold) in spec.items():
            judge = build_labeler(labeler)
            attach = getattr(judge, "keep_replies", None)
            if attach is not None:
                attach(store)
            pairs = None if gold is None else gold_pairs(gold, max_words, words_of)
            source = gold.name if isinstance(gold, DataSource) else gold
            judges[name] = judge
            qualities[name] = measure_judge(name, judge, pairs, source, estimator=estimator)
        study = compare_rounds(rows, judges, qualities, estimator=estimator)
    rounds.page_of(study).render(Console())
    rounds.write(study, out)
    metrics = study.to_metrics() | {"revisions/seconds": time.monotonic() - started}
    write_metrics(Path(out) / "metrics.json", metrics)
    return 0
