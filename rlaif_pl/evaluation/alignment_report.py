"""Measurements of a labeler against people: the record, its metrics and its table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlaif_pl.statistics import Interval


@dataclass(frozen=True, slots=True)
class PositionBias:
    """How often a labeler keeps to a slot whatever stands in it (arXiv 2309.00267, appendix B).

    Attributes:
        same_slot: Share of pairs where the same slot won in both orders.
        first_slot: Among those, the share in which it was slot 1; NaN where not recorded.
        p_value: Two-sided binomial test of "slot 1 as often as slot 2"; NaN where not recorded.
    """

    same_slot: Interval
    first_slot: float
    p_value: float


@dataclass(frozen=True, slots=True)
class SliceAlignment:
    """Alignment on the rows that carry one label."""

    name: str
    label: str
    alignment: Interval


@dataclass(frozen=True, slots=True)
class AlignmentReport:
    """A labeler measured against people's preferences.

    Attributes:
        labeler: Fingerprint of the labeler.
        alignment: Share of pairs with the same favored side; a labeler's tie counts half.
        length_baseline: The same for "more characters win"; equal lengths count half.
        gain_over_length: Paired difference of the two, over all usable pairs.
        length_matched: Alignment on pairs whose shorter response has at least 80 % of the longer
            one's characters.
        position: Position bias; None where the strategy has no order ("n/a").
        ece: Expected calibration error (10 bins of equal mass, favored side first).
        brier: Mean squared difference of ``p_first`` and people's verdict.
        mean_tokens: Tokens read and written a label.
        undecided: Gold pairs left out because people were undecided or gave no verdict.
        failures: Decided pairs left out for want of a usable label, by kind.
        slices: Alignment by slice, in order of name and label.
    """

    labeler: str
    alignment: Interval
    length_baseline: Interval
    gain_over_length: Interval
    length_matched: Interval
    position: PositionBias | None
    ece: float
    brier: float
    mean_tokens: float
    undecided: int
    failures: Mapping[str, int]
    slices: tuple[SliceAlignment, ...]

    def render(self, console: Console) -> None:
        """Print the report as a table."""
        table = Table(
            title=escape(f"Alignment of {self.labeler} with people"), title_justify="left"
        )
        table.add_column("measure")
        table.add_column("value [interval]", justify="right")
        table.add_column("pairs", justify="right")
        for label, interval in self._rows():
            text = escape(interval.percent())
            table.add_row(escape(label), text, str(interval.n))
        table.add_row("calibration error / Brier", f"{self.ece:.3f} / {self.brier:.3f}", "")
        table.add_row("same slot in both orders", self._position_text(), "")
        table.add_row("tokens a label", f"{self.mean_tokens:.0f}", "")
        failures = ", ".join(f"{kind} {count}" for kind, count in sorted(self.failures.items()))
        table.add_row("left out", f"undecided {self.undecided}; failed: {failures or 'none'}", "")
        console.print(table)

    def _rows(self) -> list[tuple[str, Interval]]:
        """Shares to print, most important first."""
        rows = [
            ("alignment", self.alignment),
            ("longer response wins", self.length_baseline),
            ("gain over length", self.gain_over_length),
            ("alignment at similar length", self.length_matched),
        ]
        return rows + [(f"alignment, {s.name} = {s.label}", s.alignment) for s in self.slices]

    def _position_text(self) -> str:
        """Position bias in words."""
        if self.position is None:
            return "n/a"
        text = escape(self.position.same_slot.percent())
        if math.isnan(self.position.first_slot):
            return text
        return f"{text}; {self.position.first_slot:.0%} slot 1, p = {self.position.p_value:.2g}"

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
        for name in ("alignment", "length_baseline", "gain_over_length", "length_matched"):
            metrics |= getattr(self, name).to_metrics(f"{prefix}/{name}")
        for kind, count in sorted(self.failures.items()):
            metrics[f"{prefix}/failures_{kind}"] = count
        if self.position is not None:
            metrics |= self.position.same_slot.to_metrics(f"{prefix}/same_slot")
            metrics[f"{prefix}/same_slot_first"] = self.position.first_slot
            metrics[f"{prefix}/same_slot_p_value"] = self.position.p_value
        for part in self.slices:
            metrics |= part.alignment.to_metrics(f"{prefix}/alignment_{part.name}_{part.label}")
        return {key: value for key, value in metrics.items() if math.isfinite(value)}
