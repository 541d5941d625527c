"""``revise``: answers to harmful requests, criticized and revised, as demonstrations."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress

from rlaif_pl.data.metric_files import write_metrics
from rlaif_pl.data.preferences import write_prompts
from rlaif_pl.data.revisions import HARMFUL, Revision, write_revisions
from rlaif_pl.data.sources import DataSource, load_demonstrations, load_prompts
from rlaif_pl.errors import at_least
from rlaif_pl.labeling.backends import as_backend
from rlaif_pl.labeling.calls import Backend, Call, Response
from rlaif_pl.labeling.usage.reply_store import ReplyStore
from rlaif_pl.labeling.usage.spending import BudgetTracker, OutOfBudget, refuse_unpriced
from rlaif_pl.models.backbone import EMBEDDED
from rlaif_pl.models.device import on_device
from rlaif_pl.recipes.constitutional import (
    Cut,
    Demonstrations,
    Reviser,
    RevisionOptions,
    demonstrations,
)
from rlaif_pl.tables import Cell, Column, Columns, Table
from rlaif_pl.text import word_count
from rlaif_pl.types import Prompt


@on_device
def revise(
    prompts: DataSource | str,
    out: str,
    backend: Backend | str = EMBEDDED,
    options: RevisionOptions = RevisionOptions(),  # noqa: B008 - frozen
    helpful: DataSource | str | None = None,
    only_last: bool = False,
    cut: Cut = "sentence",
    replies: str | None = None,
    chunk: int = 256,
    max_cost: float | None = None,
    retry_failed: bool = False,
    device: str = "auto",  # noqa: ARG001 - on_device reads it
) -> int:
    """Have a model answer harmful requests, criticize its answers and revise them.

    The supervised stage of Constitutional AI (arXiv 2212.08073). OUT/revisions.jsonl holds every round
    with its principle, critique and model; OUT/demonstrations.jsonl is what ``fit`` of an SFTModule
    reads. Every reply is kept, so a job that was killed, or stopped at ``max_cost``, goes on where it
    was when it is run again. Texts are written to these files only: the terminal gets counts.

    Args:
        prompts: Harmful requests, plain or as dialogues of HH.
        out: Folder for revisions.jsonl, demonstrations.jsonl, metrics.json and replies.sqlite.
        backend: Who answers, criticizes and revises: a model's name, or a class with its arguments.
        options: Rounds, principles, examples, decoding.
        helpful: Ordinary prompts to mix in: their references are taken as they are, and those
            without one are answered by the model.
        only_last: Demonstrate only the last revision of each prompt.
        cut: What is demonstrated of a response that the length limit cut: up to its last full
            ``sentence``, all but an end (``keep``), or nothing (``drop``).
        replies: SQLite file of the model's replies; by default OUT/replies.sqlite.
        chunk: Prompts taken through all rounds at a time, at least 1.
        max_cost: Stop when this run has spent so many USD; calls in flight are still awaited and kept.
            A server needs ``prices`` for it.
        retry_failed: Ask again for every failed call, also those likely to fail the same way.
        device: Where models compute: ``auto`` (a GPU if any), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """
    started = time.monotonic()
    at_least(1, chunk=chunk)
    folder, spending, author = Path(out), BudgetTracker(max_cost), as_backend(backend)
    folder.mkdir(parents=True, exist_ok=True)
    refuse_unpriced(max_cost, [author])
    asked = load_prompts(prompts)
    mixed = [] if helpful is None else load_demonstrations(helpful)
    known = [row for row in mixed if row.reference is not None]
    open_prompts = [row for row in mixed if row.reference is None]
    path = replies or str(folder / "replies.sqlite")
    with ReplyStore(path, retry_failed=retry_failed) as store:
        reviser = Reviser(author, options, store)
        try:
            rows = run(reviser, asked, open_prompts, chunk, spending)
        except OutOfBudget as stop:
            write_metrics(folder / "metrics.json", spending.to_metrics("revise"))
            raise OutOfBudget(
                f"{stop}: {spending.calls} calls were made in this run and all are kept; run the same "
                "command again (max_cost counts each run) and it goes on from here"
            ) from stop
    found = demonstrations(rows, known, only_last=only_last, cut=cut)
    write_revisions(folder / "revisions.jsonl", rows)
    if not found.revised:
        raise ValueError(
            f"expected revisions of {len(asked)} prompts, got none that can be used: left out "
            f"{found.dropped}; give more tokens (options.max_answer_tokens) or another model"
        )
    write_prompts(folder / "demonstrations.jsonl", found.rows)
    metrics = measures(rows, found) | spending.to_metrics("revise")
    write_metrics(folder / "metrics.json", metrics | {"revise/seconds": time.monotonic() - started})
    Console().print(summary(rows, found).rich())
    return 0


def run(
    reviser: Reviser,
    harmful: Sequence[Prompt],
    helpful: Sequence[Prompt],
    chunk: int,
    spending: BudgetTracker,
) -> list[Revision]:
    """Take prompts through all rounds, a chunk at a time, with a bar that counts prompts."""
    rows: list[Revision] = []
    with Progress(console=Console(stderr=True)) as bar:
        total = reviser.calls(len(harmful), len(helpful))
        task = bar.add_task("answering and revising", total=total)

        def watch(call: Call, reply: Response) -> None:
            bar.advance(task)
            spending.count(call, reply)

        reviser.watch = watch
        done = 0
        for prompts, work, each in (
            (harmful, reviser.revise, reviser.calls(1, 0)),
            (helpful, reviser.answer, reviser.calls(0, 1)),
        ):
            for start in range(0, len(prompts), chunk):
                part = prompts[start : start + chunk]
                rows += work(part)
                done += each * len(part)
                bar.update(task, completed=done)  # what was kept or failed early is not asked for
    return rows


def measures(rows: Sequence[Revision], found: Demonstrations) -> dict[str, float]:
    """Return counts and lengths by round, and what was left out."""
    metrics: dict[str, float] = {
        "revise/prompts": float(len({(row.group, row.prompt) for row in rows if _harmful(row)})),
        "revise/demonstrations": float(len(found.rows)),
        "revise/demonstrations_revised": float(found.revised),
        "revise/read_tokens": float(sum(row.read for row in rows)),
        "revise/written_tokens": float(sum(row.written for row in rows)),
        "revise/cost_usd": sum(row.cost_usd for row in rows),
    }
    for reason, count in found.dropped.items():
        metrics[f"revise/dropped/{reason.replace(' ', '_')}"] = float(count)
    for each in rounds_of(rows):
        name = f"revise/round_{each.number}"
        metrics[f"{name}/responses"] = float(each.responses)
        metrics |= {f"{name}/{reason}": float(count) for reason, count in each.failures.items()}
        if each.responses:
            metrics[f"{name}/words"] = each.words
            metrics[f"{name}/cut"] = each.cut / each.responses
            metrics[f"{name}/unchanged"] = each.unchanged / each.responses
    return metrics


class Round(NamedTuple):
    """What a round gave: counts of responses, their mean words, and failures by reason."""

    number: int
    responses: int
    words: float
    cut: int
    unchanged: int
    failures: Counter[str]


def rounds_of(rows: Sequence[Revision]) -> list[Round]:
    """Count the rows of harmful prompts by round."""
    found: dict[int, list[Revision]] = {}
    for row in filter(_harmful, rows):
        found.setdefault(row.round, []).append(row)
    rounds = []
    for number, own in sorted(found.items()):
        good = [row for row in own if row.failure is None]
        words = sum(word_count(row.response) for row in good) / max(len(good), 1)
        cut = sum(not row.finished for row in good)
        unchanged = sum(row.unchanged for row in good)
        failures = Counter(row.failure for row in own if row.failure)
        rounds.append(Round(number, len(good), words, cut, unchanged, failures))
    return rounds


def summary(rows: Sequence[Revision], found: Demonstrations) -> Table:
    """Show what each round gave, without any text."""
    cells: list[list[Cell]] = [
        [
            each.number or "first answer",
            *(each.responses, each.words, each.cut, each.unchanged),
            ", ".join(f"{reason} {n}" for reason, n in sorted(each.failures.items())) or 0,
        ]
        for each in rounds_of(rows)
    ]
    title = (
        f"{len(found.rows)} demonstrations, {found.revised} of them revisions; "
        f"{sum(found.dropped.values())} responses left out"
    )
    columns: Columns = ["round", "responses", Column("words", ".1f"), "cut", "unchanged"]
    return Table(title, [*columns, "without response"], cells)


def _harmful(row: Revision) -> bool:
    return row.kind == HARMFUL
