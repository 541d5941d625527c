"""``evaluate alignment``: how far labelers agree with people, one by one or in a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from rlaif_pl.data.metric_files import write_metrics
from rlaif_pl.data.sources import DataSource, load_preferences
from rlaif_pl.evaluation.agreement import table as tables
from rlaif_pl.evaluation.agreement.measure import QualityThresholds, measure_alignment
from rlaif_pl.evaluation.agreement.paper_tables import PaperTable
from rlaif_pl.evaluation.agreement.table import measure_table
from rlaif_pl.evaluation.pairs import decided, judges_named
from rlaif_pl.labeling.registry import build_labeler
from rlaif_pl.labeling.strategies.ensemble import EnsembleLabeler, KeepsReplies
from rlaif_pl.labeling.usage.projection import ThroughputEstimator, estimate_cost
from rlaif_pl.labeling.usage.reply_store import ReplyStore
from rlaif_pl.labeling.usage.spending import Price
from rlaif_pl.models.device import on_device
from rlaif_pl.statistics import Estimator
from rlaif_pl.text import word_count
from rlaif_pl.types import Labeler, Preference


@on_device
def alignment(
    data: DataSource | str,
    labeler: Labeler | str = "likelihood",
    labelers: dict[str, Labeler | str] | None = None,
    table: PaperTable = PaperTable(),  # noqa: B008 - frozen
    prices: Price | None = None,
    replies: str | None = None,
    max_words: int | None = None,
    out: str | None = None,
    gate: QualityThresholds = QualityThresholds(),  # noqa: B008 - frozen
    draws: int = 2000,
    seed: int = 0,
    device: str = "auto",  # noqa: ARG001 - on_device reads it
) -> int:
    """Measure how often a labeler agrees with people, beside the length rule; or compare several.

    With ``--table.rows`` the rows are those of the paper's table for one model; with ``--labelers``
    they are yours. Otherwise ``--labeler`` alone is measured and held to the gate; an
    ensemble is also compared with its members.

    Args:
        data: Pairs judged by people; of OpenAI's, ``--data.confidence 1 2 8 9`` keeps the strong ones.
        labeler: ``likelihood``, ``pairwise``, ..., or a class with its arguments.
        labelers: Rows of a table: a labeler by name; the first is what the others are compared with.
        table: One of the paper's tables, for one model.
        prices: US dollars per million tokens read and written, for the comparison with people's cost.
        replies: SQLite file of the models' replies, so that a killed job repeats none; by default
            OUT/replies.sqlite.
        max_words: Keep only pairs whose prompt has at most so many words; of those ``data.limit``.
        out: Folder for metrics.json and, of a table, table.md, rows.csv and rows.json; None only
            prints.
        gate: What is asked of the labeler, and what follows where it falls short. Tables are not
            held to it.
        draws: Bootstrap resamples.
        seed: Seeds the bootstrap.
        device: Where models compute: ``auto`` (a GPU if any), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """
    is_table = table.rows is not None or labelers is not None
    if is_table and labeler != "likelihood":
        raise ValueError(
            "expected labeler without table.rows and labelers, since it would not be a row; name it "
            "under labelers"
        )
    gold = gold_pairs(data, max_words)
    estimator = Estimator(draws, seed)
    path = replies or (f"{out}/replies.sqlite" if out is not None else None)
    with nullcontext() if path is None else ReplyStore(path) as store:
        if is_table:
            rows: dict[str, Labeler | str] = {**table.labelers(), **(labelers or {})}
            compare(rows, gold, table.rows or "labelers", prices, estimator, out, store)
            return 0
        judge = ready(build_labeler(labeler), gold, store, prices)
        report = measure_alignment(judge, gold, prices=prices, estimator=estimator)
        report.render(Console())
        metrics = report.to_metrics("labeler")
        if isinstance(judge, EnsembleLabeler):
            members: dict[str, Labeler | str] = {"ensemble": judge}
            members |= {f"member {n}": member for n, member in enumerate(judge.labelers, 1)}
            metrics |= compare(members, gold, "members", prices, estimator, out, store)
    if out is not None:
        write_metrics(Path(out) / "metrics.json", metrics)
    gate.check(report)
    return 0


def compare(
    rows: dict[str, Labeler | str],
    gold: Sequence[Preference],
    title: str,
    prices: Price | None,
    estimator: Estimator,
    out: str | None,
    store: ReplyStore | None,
) -> dict[str, float]:
    """Measure labelers side by side, print their table, write it, and return its metrics."""

    def one_by_one() -> Iterator[tuple[str, Labeler]]:
        """Let go of each labeler, so that the models of all rows are not held at once."""
        for name in list(rows):
            yield name, ready(build_labeler(rows.pop(name)), gold, store, prices, name)

    progress = Console(stderr=True)
    table = measure_table(
        one_by_one(),
        gold,
        prices=prices,
        estimator=estimator,
        tell=lambda line: progress.print(escape(line), highlight=False),
    )
    shown = f"Alignment with {judges_named(table.judged)}: {title}"
    tables.page_of(table, shown).render(Console())
    metrics = tables.to_metrics(table)
    if out is not None:
        tables.write(table, out)
        write_metrics(Path(out) / "metrics.json", metrics)
    return metrics


def gold_pairs(
    data: DataSource | str,
    max_words: int | None = None,
    words: Callable[[Preference], int] = lambda pair: word_count(pair.prompt),
) -> Sequence[Preference]:
    """Return a source's pairs of at most so many words, by default of the prompt; ValueError: none."""
    source = DataSource(data) if isinstance(data, str) else data
    if max_words is None:
        rows = load_preferences(source).rows
    else:  # of the pairs that are short enough the first are kept, so the limit comes last
        rows = load_preferences(replace(source, limit=None)).rows
        rows = [row for row in rows if words(row) <= max_words][: source.limit]
    if not rows:
        raise ValueError(
            f"expected pairs of at most {max_words} words in {source.name}, got none; raise max_words"
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

    ``prices`` are those of a back end that has none of its own.
    """

    def tell(line: str) -> None:
        text = escape(f"{name}: {line}" if name else line)
        Console(stderr=True).print(text, highlight=False, soft_wrap=True)

    pace = announced(labeler, [gold[place] for place in decided(gold)], tell, prices)
    if isinstance(labeler, KeepsReplies):
        labeler.keep_replies(store, None if pace is None else pace.count)
    return labeler


def announced(
    labeler: Labeler,
    pairs: Sequence[Preference],
    tell: Callable[[str], None],
    prices: Price | None = None,
) -> ThroughputEstimator | None:
    """Tell what labeling pairs is likely to take, before it is; None where nothing is known."""
    projection = estimate_cost(labeler, pairs, prices) if pairs else None
    if projection is None:
        return None
    tell(projection.line())
    return ThroughputEstimator(projection, tell)
