"""Measurements of a labeler against gold verdicts: the record, its metrics and its table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.console import Console

from rlaif_pl.evaluation.gold import judge_metrics, judges_named
from rlaif_pl.labeling.usage.cost import CostComparison
from rlaif_pl.labeling.usage.counts import OutcomeCounts
from rlaif_pl.labeling.usage.position import PositionBias
from rlaif_pl.statistics import Interval
from rlaif_pl.tables import Cell, Table


@dataclass(frozen=True, slots=True)
class SliceAlignment:
    """Alignment on the rows that carry one label."""

    name: str
    label: str
    alignment: Interval


@dataclass(frozen=True, slots=True)
class AlignmentReport:
    """A labeler measured against gold verdicts."""

    labeler: str  # fingerprint of the labeler
    judged: Mapping[str, int]  # pairs by who gave the gold verdict (a key of `gold.NAMES`)
    alignment: Interval  # share of pairs with the same favored side; a labeler's tie counts half
    length_baseline: Interval  # the same for "more characters win"; equal lengths count half
    gain_over_length: Interval  # paired difference of the two, over all usable pairs
    # alignment on pairs whose shorter response has at least 80 % of the longer one's characters
    length_matched: Interval
    position: PositionBias | None  # position bias; None where the strategy has no order ("n/a")
    ece: float  # expected calibration error (10 bins of equal mass, favored side first)
    brier: float  # mean squared difference of `p_first` and the gold verdict
    mean_tokens: float  # tokens read and written a label
    undecided: int  # gold pairs left out because their verdict is a tie or missing
    failures: Mapping[str, int]  # decided pairs left out for want of a usable label, by reason
    counts: OutcomeCounts  # decided pairs by what became of them
    cost: CostComparison  # what a label cost, beside what a person's would have
    slices: tuple[SliceAlignment, ...]  # alignment by slice, in order of name and label

    def render(self, console: Console) -> None:
        """Print the report as a table."""
        rows: list[list[Cell]] = [[name, x.percent(), x.n] for name, x in self._rows()]
        rows += [[name, text, ""] for name, text in self._others()]
        title = f"Alignment of {self.labeler} with {judges_named(self.judged)}"
        console.print(Table(title, ["measure", "value [interval]", "pairs"], rows).rich())

    def _rows(self) -> list[tuple[str, Interval]]:
        """Shares to print, most important first."""
        rows = [
            ("alignment", self.alignment),
            ("longer response wins", self.length_baseline),
            ("gain over length", self.gain_over_length),
            ("alignment at similar length", self.length_matched),
        ]
        return rows + [(f"alignment, {s.name} = {s.label}", s.alignment) for s in self.slices]

    def _others(self) -> Iterator[tuple[str, str]]:
        """Yield what is no share of pairs; costs only where prices or charges are known."""
        position, cost = self.position, self.cost
        yield "calibration error / Brier", f"{self.ece:.3f} / {self.brier:.3f}"
        yield "same slot in both orders", position.text() if position else "n/a"
        if position is not None:
            yield "gap between the orders", position.position_gap.number()
            yield "    pairs by gap, in tenths", " ".join(map(str, position.gap_counts))
        if math.isfinite(cost.times_cheaper):
            yield "AI label, $ a pair", cost.ai.number(".2g")
            yield "person's label, $ a pair", cost.human.number(".2g")
            yield "times cheaper", f"{cost.times_cheaper:,.1f}"
        yield "tokens a label", f"{self.mean_tokens:.0f}"
        failures = ", ".join(f"{kind} {count}" for kind, count in sorted(self.failures.items()))
        yield "left out", f"undecided {self.undecided}; failed: {failures or 'none'}"
        yield "ties (count half)", str(self.counts.tied)

    def to_metrics(self, prefix: str = "labeler") -> dict[str, float]:
        """Return flat numbers; what was not measured (no pair of similar length) is left out."""
        metrics: dict[str, float] = {
            f"{prefix}/n": self.alignment.n,
            f"{prefix}/length_matched_n": self.length_matched.n,
            f"{prefix}/undecided": self.undecided,
            f"{prefix}/failures": sum(self.failures.values()),
            f"{prefix}/ece": self.ece,
            f"{prefix}/brier": self.brier,
            f"{prefix}/mean_tokens": self.mean_tokens,
        }
        metrics |= judge_metrics(self.judged, prefix)
        for name in ("alignment", "length_baseline", "gain_over_length", "length_matched"):
            metrics |= getattr(self, name).to_metrics(f"{prefix}/{name}")
        for kind, count in sorted(self.failures.items()):
            metrics[f"{prefix}/failures_{kind}"] = count
        if self.position is not None:
            metrics |= self.position.to_metrics(prefix)
        metrics |= self.counts.to_metrics(f"{prefix}/count")
        metrics |= self.cost.to_metrics(f"{prefix}/cost")
        for part in self.slices:
            metrics |= part.alignment.to_metrics(f"{prefix}/alignment_{part.name}_{part.label}")
        return {key: value for key, value in metrics.items() if math.isfinite(value)}
