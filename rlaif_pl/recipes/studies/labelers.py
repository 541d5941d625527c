"""Studies 4 and 6: what a table of labelers says of size, and of the price of a pair.

Both read the rows that ``evaluate alignment`` wrote (``rows.json``), so nothing is asked twice.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rlaif_pl.evaluation.results import COLORS, StudyResults, error_bars, plain_axes
from rlaif_pl.labeling.usage.spending import Price, human_cost
from rlaif_pl.statistics import Interval
from rlaif_pl.tables import PERCENT, POINTS, Cell, Column, Columns, Rows, Table

PAPER_WORDS = 304  # words a person reads for one label (arXiv 2309.00267, appendix L)
LOCAL = "this machine"


@dataclass(frozen=True, slots=True)
class LabelerRow:
    """One labeler as ``evaluate alignment`` measured it."""

    name: str  # its name in the table
    alignment: Interval  # agreement with people
    gain_over_length: Interval  # paired difference to "the longer one wins"
    length_matched: Interval  # agreement on pairs of like length
    pairs: int  # pairs asked about
    seconds: float  # wall time of asking for them; answers that were on disk took none
    read: float  # tokens read a pair
    written: float  # tokens written a pair
    human_usd: Interval  # what a person would be paid for a pair, by its words

    @property
    def measures(self) -> tuple[Interval, ...]:
        """Alignment, over the length rule, and at like length."""
        return self.alignment, self.gain_over_length, self.length_matched

    @property
    def seconds_per_pair(self) -> float:
        """Wall time of one pair."""
        return self.seconds / self.pairs if self.pairs else math.nan

    def usd(self, price: Price) -> float:
        """US dollars a pair at an endpoint's price of tokens."""
        return (self.read * price.read + self.written * price.written) / 1_000_000


def read_rows(path: Path | str) -> list[LabelerRow]:
    """Read ``rows.json`` of ``evaluate alignment``; ValueError if it is no table of labelers."""
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(
            f"expected a table of labelers at {source}, found no file; make it with: "
            "python -m rlaif_pl evaluate alignment --labelers ... --out FOLDER"
        )
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except ValueError as error:  # broken JSON, or no text
        raise ValueError(
            f"expected JSON in {source}, got something else ({error}); give the rows.json of "
            "`evaluate alignment --labelers`"
        ) from error
    if not isinstance(content, dict) or not content.get("rows"):
        raise ValueError(
            f"expected {source} to hold rows of labelers, got {type(content).__name__} without "
            "'rows'; give the rows.json of `evaluate alignment --labelers`"
        )
    return [_row(record) for record in content["rows"]]


def cost_results(rows: Sequence[LabelerRow], prices: Mapping[str, Price]) -> StudyResults:
    """Lay out what a label costs by each labeler and price, beside a person's.

    Prices are US dollars per million tokens by name of an endpoint. The tokens are those of the
    labeler's own tokenizer; another model's will count somewhat differently.
    """
    header: Columns = ["labeler", Column("alignment, %", PERCENT), "tokens read + written"]
    header += [Column("s a pair", ".2f"), Column("pairs an hour", ",.0f")]
    header += [Column(f"{name}, $ a pair", ".2g") for name in prices]
    header += [Column("person, $ a pair", ".2f"), Column("a person costs, times", ",.0f")]
    body: Rows = [_cost_cells(row, prices) for row in rows]
    paper = human_cost(PAPER_WORDS)
    notes = [
        "A person is paid $0.11 per 50 words of prompt and responses (arXiv 2309.00267, appendix L: "
        f"{PAPER_WORDS} words, ${paper:.2f} a pair, where an AI label cost about $0.06).",
        f"Time is wall time on {LOCAL}, answers on disk excluded; a model of one's own costs that and "
        "no tokens. Prices are those of the config, not quotations.",
        "The last column divides a person's price by that of the dearest endpoint listed: the price of "
        "a label says nothing of its worth, which is the first column.",
    ]
    return StudyResults(
        "label_cost",
        [Table("What a preference label costs", header, body)],
        notes,
        [_cost_record(row, prices) for row in rows],
        _cost_metrics(rows, prices),
        _cost_figure(rows, prices),
        "Price of a preference label by labeler and endpoint, beside a person's",
    )


def size_results(rows: Sequence[LabelerRow]) -> StudyResults:
    """Lay out alignment by labeler, in the order of the table."""
    body: Rows = [[r.name, *r.measures, r.seconds_per_pair, r.alignment.n] for r in rows]
    header: Columns = [
        "labeler",
        Column("alignment, %", PERCENT),
        Column("over length rule, points", POINTS),
        Column("at like length, %", PERCENT),
        Column("s a pair", ".2f"),
        "pairs",
    ]
    record = [
        {
            "labeler": row.name,
            "alignment": row.alignment.value,
            "low": row.alignment.low,
            "high": row.alignment.high,
            "gain_over_length": row.gain_over_length.value,
            "length_matched": row.length_matched.value,
            "seconds_per_pair": row.seconds_per_pair,
        }
        for row in rows
    ]
    metrics: dict[str, float] = {}
    for row in rows:
        metrics |= row.alignment.to_metrics(f"size/{row.name.replace(' ', '_')}/alignment")
    return StudyResults(
        "labeler_size",
        [Table("Agreement with people by size of the labeler", header, body)],
        [
            "Layers are the first ones of one model, without training after the cut: this shows how "
            "depth is used, and is kind to no small model. Intervals (95 %) by prompt."
        ],
        record,
        metrics,
        _size_figure(rows),
        "Agreement of a labeler with people by its size",
    )


def _row(record: Mapping[str, object]) -> LabelerRow:
    def number(name: str) -> float:
        value = record.get(name)
        return float(value) if isinstance(value, int | float) else math.nan

    def interval(name: str, n: int) -> Interval:
        return Interval(number(name), number(f"{name}_low"), number(f"{name}_high"), n)

    pairs = int(number("n"))
    asked = number("count_asked")
    return LabelerRow(
        str(record["name"]),
        interval("alignment", pairs),
        interval("gain_over_length", pairs),
        interval("length_matched", pairs),
        int(asked) if math.isfinite(asked) else pairs,
        number("seconds"),
        number("tokens_read_per_pair"),
        number("tokens_written_per_pair"),
        interval("human_usd_per_pair", pairs),
    )


def _cost_cells(row: LabelerRow, prices: Mapping[str, Price]) -> list[Cell]:
    rate = 3600 / row.seconds_per_pair if row.seconds_per_pair > 0 else None
    read = f"{row.read:.0f} + {row.written:.0f}"
    paid = [row.usd(price) for price in prices.values()]
    dearest = max(paid, default=0.0)
    times = row.human_usd.value / dearest if dearest > 0 else None
    return [row.name, row.alignment, read, row.seconds_per_pair, rate, *paid, row.human_usd, times]


def _cost_record(row: LabelerRow, prices: Mapping[str, Price]) -> dict[str, object]:
    record: dict[str, object] = {
        "labeler": row.name,
        "alignment": row.alignment.value,
        "tokens_read": row.read,
        "tokens_written": row.written,
        "seconds_per_pair": row.seconds_per_pair,
        "human_usd": row.human_usd.value,
    }
    return record | {f"usd_{name}": row.usd(price) for name, price in prices.items()}


def _cost_metrics(rows: Sequence[LabelerRow], prices: Mapping[str, Price]) -> dict[str, float]:
    return {
        f"cost/{row.name.replace(' ', '_')}/{key}": value
        for row in rows
        for key, value in _cost_record(row, prices).items()
        if isinstance(value, float) and math.isfinite(value)
    }


def _cost_figure(rows: Sequence[LabelerRow], prices: Mapping[str, Price]) -> Figure:
    figure = Figure(figsize=(7.2, 0.6 * len(rows) + 1.6))
    ax = plain_axes(figure)
    ax.grid(visible=True, axis="x", color="#dddddd", linewidth=0.6)
    place = np.arange(len(rows))
    for color, (name, price) in zip(itertools.cycle(COLORS), prices.items(), strict=False):
        ax.plot([row.usd(price) for row in rows], place, "o", color=color, label=name)
    ax.plot([row.human_usd.value for row in rows], place, "D", color="#222222", label="person")
    ax.set_xscale("log")
    ax.set_yticks(place, [row.name for row in rows])
    ax.invert_yaxis()
    ax.set_xlabel("US dollars a pair")
    ax.legend(frameon=False, fontsize=8)
    return figure


def _size_figure(rows: Sequence[LabelerRow]) -> Figure:
    figure = Figure(figsize=(6.4, 3.0))
    ax = plain_axes(figure)
    place = np.arange(len(rows))
    for number, (label, intervals) in enumerate(
        (
            ("all pairs", [row.alignment for row in rows]),
            ("like length", [row.length_matched for row in rows]),
        )
    ):
        places = place + 0.1 * number
        error_bars(ax, places, intervals, fmt="o", color=COLORS[number], label=label)
    ax.axhline(50, color="#999999", linewidth=0.8, linestyle=":")
    ax.set_xticks(place, [row.name for row in rows], fontsize=8)
    ax.set_ylabel("agreement with people, %")
    ax.legend(frameon=False, fontsize=8)
    return figure
