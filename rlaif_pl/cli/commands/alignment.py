"""``evaluate alignment``: how far labelers agree with people, one by one or in a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Literal

from rich.console import Console
from rich.markup import escape

from rlaif_pl.cli.commands.evaluate import write
from rlaif_pl.data.sources import DataSource, load_preferences
from rlaif_pl.evaluation.agreement import table_text
from rlaif_pl.evaluation.agreement.gate import QualityThresholds
from rlaif_pl.evaluation.agreement.measure import measure_alignment
from rlaif_pl.evaluation.agreement.paper_tables import Asking, TableName, paper_rows
from rlaif_pl.evaluation.agreement.rows import Resampling
from rlaif_pl.evaluation.agreement.table import measure_table
from rlaif_pl.evaluation.gold import judges_named
from rlaif_pl.evaluation.pairs import decided
from rlaif_pl.labeling.calls import Backend
from rlaif_pl.labeling.registry import build_labeler
from rlaif_pl.labeling.strategies.ensemble import EnsembleLabeler, KeepsReplies
from rlaif_pl.labeling.usage.projection import ThroughputEstimator, estimate_cost
from rlaif_pl.labeling.usage.reply_store import ReplyStore
from rlaif_pl.labeling.usage.spending import Price
from rlaif_pl.models.backbone import EMBEDDED
from rlaif_pl.models.device import on_device
from rlaif_pl.types import Labeler, Preference


@on_device
def alignment(
    data: DataSource | str,
    labeler: Labeler | str = "likelihood",
    labelers: dict[str, Labeler | str] | None = None,
    table: TableName | None = None,
    backend: Backend | str = EMBEDDED,
    sizes: dict[str, Backend | str] | None = None,
    asking: Asking = Asking(),  # noqa: B008 - frozen
    prices: Price | None = None,
    replies: str | None = None,
    confidence: list[int] | None = None,
    max_words: int | None = None,
    limit: int | None = None,
    out: str | None = None,
    gate: Literal["warn", "stop", "off"] = "warn",
    min_alignment: float = 0.6,
    limits: QualityThresholds = QualityThresholds(),  # noqa: B008 - frozen
    draws: int = 2000,
    seed: int = 0,
    device: str = "auto",  # noqa: ARG001 - on_device reads it
) -> int:
    """Measure how often a labeler agrees with people, beside the length rule; or compare several.

    With ``--table`` the rows are those of the paper's table for one model (``--backend``); with
    ``--labelers`` they are yours. Otherwise ``--labeler`` alone is measured and held to the gate; an
    ensemble is also compared with its members.

    Args:
        data: Pairs judged by people.
        labeler: ``likelihood``, ``pairwise``, ..., or a class with its arguments.
        labelers: Rows of a table: a labeler by name; the first is what the others are compared with.
        table: Rows of one of the paper's tables.
        backend: Model of that table: a name, or a back end with its arguments.
        sizes: Models of the table of sizes by name.
        asking: What the rows of the paper's table have in common.
        prices: US dollars per million tokens read and written, for the comparison with people's cost.
        replies: SQLite file of the models' replies, so that a killed job repeats none; by default
            OUT/replies.sqlite.
        confidence: Keep only OpenAI comparisons with these confidences (1 2 8 9 are the strong ones).
        max_words: Keep only pairs whose prompt has at most so many words.
        limit: Keep the first so many pairs.
        out: Folder for metrics.json and, of a table, table.md, rows.csv and rows.json; None only
            prints.
        gate: What to do where the labeler falls short: ``warn``, ``stop`` (exit non-zero) or ``off``.
            Tables are not held to it.
        min_alignment: Least agreement with people, in [0, 1].
        limits: What the gate asks of the labeler beside agreement.
        draws: Bootstrap resamples.
        seed: Seeds the bootstrap.
        device: Where models compute: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:N``
            or ``mps``.
    """
    _refuse_idle(table, labelers, labeler, backend, sizes, asking)
    gold = gold_pairs(data, confidence, max_words, limit)
    resampling = Resampling(0.95, draws, seed)
    path = replies or (f"{out}/replies.sqlite" if out is not None else None)
    with nullcontext() if path is None else ReplyStore(path) as store:
        if table is not None or labelers is not None:
            rows: dict[str, Labeler | str] = {}
            if table is not None:
                rows |= paper_rows(table, backend, asking, sizes)
            rows |= labelers or {}
            compare(rows, gold, table or "labelers", prices, resampling, out, store)
            return 0
        judge = ready(build_labeler(labeler), gold, store, prices)
        report = measure_alignment(judge, gold, prices=prices, draws=draws, seed=seed)
        report.render(Console())
        metrics = report.to_metrics("labeler")
        if isinstance(judge, EnsembleLabeler):
            members: dict[str, Labeler | str] = {"ensemble": judge}
            members |= {f"member {n}": member for n, member in enumerate(judge.labelers, 1)}
            metrics |= compare(members, gold, "members", prices, resampling, out, store)
    if out is not None:
        write(out, metrics)
    if gate != "off":
        limits.check(report, min_alignment, gate)
    return 0


def _refuse_idle(
    table: TableName | None,
    labelers: dict[str, Labeler | str] | None,
    labeler: Labeler | str,
    backend: Backend | str,
    sizes: dict[str, Backend | str] | None,
    asking: Asking,
) -> None:
    """Refuse options that say nothing about what is measured.

    Raises:
        ValueError: There is one; the message says where it belongs.
    """
    of_table = {
        "backend": backend != EMBEDDED,
        "sizes": sizes is not None,
        "asking": asking != Asking(),
    }
    idle = [name for name, given in of_table.items() if given]
    if table is None and idle:
        raise ValueError(
            f"expected {', '.join(idle)} only with --table, whose rows they describe; the model of one "
            "labeler is --labeler.backend"
        )
    if (table is not None or labelers is not None) and labeler != "likelihood":
        raise ValueError(
            "expected labeler without --table and labelers, since it would not be a row; name it "
            "under labelers"
        )


def compare(
    rows: dict[str, Labeler | str],
    gold: Sequence[Preference],
    title: str,
    prices: Price | None,
    resampling: Resampling,
    out: str | None,
    store: ReplyStore | None,
) -> dict[str, float]:
    """Measure labelers side by side, print their table, write it, and return its metrics."""
    progress = Console(stderr=True)
    table = measure_table(
        _one_by_one(rows, gold, store, prices),
        gold,
        prices=prices,
        resampling=resampling,
        tell=lambda line: progress.print(escape(line), highlight=False),
    )
    table_text.render(table, Console(), f"Alignment with {judges_named(table.judged)}: {title}")
    metrics = table_text.to_metrics(table)
    if out is not None:
        table_text.write(table, out)
        write(out, metrics)
    return metrics


def gold_pairs(
    data: DataSource | str,
    confidence: list[int] | None = None,
    max_words: int | None = None,
    limit: int | None = None,
) -> Sequence[Preference]:
    """Return the pairs of a source after the filters, which are laid over its own.

    Raises:
        ValueError: No pair is left.
    """
    source = DataSource(data) if isinstance(data, str) else data
    if confidence is not None:
        source = replace(source, confidence=confidence)
    limit = source.limit if limit is None else limit
    # Of the prompts that are short enough the first are kept, so the limit comes last.
    source = replace(source, limit=limit if max_words is None else None)
    rows = load_preferences(source).rows
    if max_words is not None:
        rows = [row for row in rows if len(row.prompt.split()) <= max_words][:limit]
    if not rows:
        raise ValueError(
            f"expected pairs in {source.name}, got none with confidence {confidence} and at most "
            f"{max_words} words; loosen the filters"
        )
    return rows


def ready(
    labeler: Labeler,
    gold: Sequence[Preference],
    store: ReplyStore | None,
    prices: Price | None = None,
    name: str = "",
) -> Labeler:
    """Say what measuring a labeler is likely to take, and have it keep its model's replies.

    Args:
        labeler: The labeler.
        gold: What it will be given.
        store: Where replies are kept; None keeps none.
        prices: For labelers whose back end has no price.
        name: Of its row in a table.
    """
    console = Console(stderr=True)

    def tell(line: str) -> None:
        text = f"{name}: {line}" if name else line
        console.print(escape(text), highlight=False, soft_wrap=True)

    people = [gold[place] for place in decided(gold)]
    projection = estimate_cost(labeler, people, prices) if people else None
    if projection is not None:
        tell(projection.line())
    if isinstance(labeler, KeepsReplies):
        labeler.keep_replies(
            store, None if projection is None else ThroughputEstimator(projection, tell).count
        )
    return labeler


def _one_by_one(
    rows: dict[str, Labeler | str],
    gold: Sequence[Preference],
    store: ReplyStore | None,
    prices: Price | None,
) -> Iterator[tuple[str, Labeler]]:
    """Yield labelers and let go of each, so that the models of all rows are not held at once."""
    for name in list(rows):
        yield name, ready(build_labeler(rows.pop(name)), gold, store, prices, name)
