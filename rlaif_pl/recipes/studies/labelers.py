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
from rlaif_pl.tables import PERCENT, POINTS, Column, Columns, Rows, Table

PAPER_WORDS = 304  # words a person reads for one label (arXiv 2309.00267, appendix L)


@dataclass(frozen=True, slots=True)
class LabelerRow:
    """One labeler as ``evaluate alignment`` measured it."""

    name: str  # its name in the table
    alignment: Interval  # agreement with people
    gain_over_length: Interval  # paired difference to "the longer one wins"
    length_matched: Interval  # agreement on pairs of like length
    seconds_per_pair: float  # wall time of asking; answers that were on disk took none
    read: float  # tokens read a pair
    written: float  # tokens written a pair
    human_usd: Interval  # what a person would be paid for a pair, by its words

    @classmethod
    def of(cls, record: Mapping[str, object]) -> LabelerRow:
        """Read a row of the table; what was not measured is NaN."""

        def number(name: str) -> float:
            value = record.get(name)
            return float(value) if isinstance(value, int | float) else math.nan

        pairs = int(number("n"))
        alignment, gain, matched, human = (
            Interval(number(name), number(f"{name}_low"), number(f"{name}_high"), pairs)
            for name in ("alignment", "gain_over_length", "length_matched", "human_usd_per_pair")
        )
        asked = number("count_asked")
        asked = asked if math.isfinite(asked) else pairs
        seconds = number("seconds") / asked if asked else math.nan
        read, written = number("tokens_read_per_pair"), number("tokens_written_per_pair")
        return cls(str(record["name"]), alignment, gain, matched, seconds, read, written, human)

    def usd(self, price: Price) -> float:
        """US dollars a pair at an endpoint's price of tokens."""
        return (self.read * price.read + self.written * price.written) / 1_000_000


def read_rows(path: Path | str) -> list[LabelerRow]:
    """Read ``rows.json`` of ``evaluate alignment``; ValueError if it is no table of labelers."""
    source, advice = Path(path), "give the rows.json of `evaluate alignment --labelers`"
    if not source.is_file():
        raise FileNotFoundError(
            f"expected a table of labelers at {source}, found no file; make it with: "
            "python -m rlaif_pl evaluate alignment --labelers ... --out FOLDER"
        )
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except ValueError as error:  # broken JSON, or no text
        said = f"expected JSON in {source}, got something else ({error}); {advice}"
        raise ValueError(said) from error
    if not isinstance(content, dict) or not content.get("rows"):
        got = f"{type(content).__name__} without 'rows'"
        raise ValueError(f"expected {source} to hold rows of labelers, got {got}; {advice}")
    return [LabelerRow.of(record) for record in content["rows"]]


def cost_results(rows: Sequence[LabelerRow], prices: Mapping[str, Price]) -> StudyResults:
    """Lay out what a label costs by labeler, at US dollars per million tokens, and by a person.

    Tokens are those of the labeler's own tokenizer; another model's will count somewhat differently.
    """
    header: Columns = ["labeler", Column("alignment, %", PERCENT), "tokens read + written"]
    header += [Column("s a pair", ".2f"), Column("pairs an hour", ",.0f")]
    header += [Column(f"{name}, $ a pair", ".2g") for name in prices]
    header += [Column("person, $ a pair", ".2f"), Column("a person costs, times", ",.0f")]
    body: Rows = []
    records: list[dict[str, object]] = []
    metrics: dict[str, float] = {}
    for row in rows:
        paid = {f"usd_{name}": row.usd(price) for name, price in prices.items()}
        dearest, seconds = max(paid.values(), default=0.0), row.seconds_per_pair
        times = row.human_usd.value / dearest if dearest > 0 else None
        tokens = f"{row.read:.0f} + {row.written:.0f}"
        rate = 3600 / seconds if seconds > 0 else None
        body.append([row.name, row.alignment, tokens, seconds, rate, *paid.values()])
        body[-1] += [row.human_usd, times]
        found = {"alignment": row.alignment.value, "tokens_read": row.read}
        found |= {"tokens_written": row.written, "seconds_per_pair": seconds}
        found |= {"human_usd": row.human_usd.value, **paid}
        records.append({"labeler": row.name, **found})
        part = f"cost/{row.name.replace(' ', '_')}"
        metrics |= {f"{part}/{key}": value for key, value in found.items() if math.isfinite(value)}
    notes = [
        "A person is paid $0.11 per 50 words of prompt and responses (arXiv 2309.00267, appendix L: "
        f"{PAPER_WORDS} words, ${human_cost(PAPER_WORDS):.2f} a pair, where an AI label cost about "
        "$0.06).",
        "Time is wall time on this machine, answers on disk excluded; a model of one's own costs that "
        "and no tokens. Prices are those of the config, not quotations.",
        "The last column divides a person's price by that of the dearest endpoint listed: the price of "
        "a label says nothing of its worth, which is the first column.",
    ]
    tables, figure = (
        [Table("What a preference label costs", header, body)],
        _cost_figure(rows, prices),
    )
    caption = "Price of a preference label by labeler and endpoint, beside a person's"
    return StudyResults("label_cost", tables, notes, records, metrics, figure, caption)


def size_results(rows: Sequence[LabelerRow]) -> StudyResults:
    """Lay out alignment by labeler, in the order of the table."""
    header: Columns = ["labeler", Column("alignment, %", PERCENT)]
    header += [Column("over length rule, points", POINTS), Column("at like length, %", PERCENT)]
    header += [Column("s a pair", ".2f"), "pairs"]
    body: Rows = []
    records: list[dict[str, object]] = []
    metrics: dict[str, float] = {}
    for row in rows:
        whole, gain, matched = row.alignment, row.gain_over_length, row.length_matched
        body.append([row.name, whole, gain, matched, row.seconds_per_pair, whole.n])
        metrics |= whole.to_metrics(f"size/{row.name.replace(' ', '_')}/alignment")
        record: dict[str, object] = {"labeler": row.name, "alignment": whole.value}
        record |= {"low": whole.low, "high": whole.high, "gain_over_length": gain.value}
        record |= {"length_matched": matched.value, "seconds_per_pair": row.seconds_per_pair}
        records.append(record)
    tables = [Table("Agreement with people by size of the labeler", header, body)]
    notes = [
        "Layers are the first ones of one model, without training after the cut: this shows how depth "
        "is used, and is kind to no small model. Intervals (95 %) by prompt."
    ]
    figure, caption = _size_figure(rows), "Agreement of a labeler with people by its size"
    return StudyResults("labeler_size", tables, notes, records, metrics, figure, caption)


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
    whole, matched = [row.alignment for row in rows], [row.length_matched for row in rows]
    error_bars(ax, place, whole, fmt="o", color=COLORS[0], label="all pairs")
    error_bars(ax, place + 0.1, matched, fmt="o", color=COLORS[1], label="like length")
    ax.axhline(50, color="#999999", linewidth=0.8, linestyle=":")
    ax.set_xticks(place, [row.name for row in rows], fontsize=8)
    ax.set_ylabel("agreement with people, %")
    ax.legend(frameon=False, fontsize=8)
    return figure
