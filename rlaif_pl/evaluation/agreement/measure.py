"""How far a labeler agrees with people, beside the rule "the longer response wins".

Alignment is the share of pairs on which the labeler's favored side is the one people favored
(arXiv 2309.00267, section 2.3). A figure alone says little: where people prefer longer responses,
a labeler that only measures length looks good. So the length rule, the paired gain over it and the
accuracy on pairs of similar length stand beside it, each with an interval by prompt.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich.console import Console

from rlaif_pl.data.failures import advice, causes
from rlaif_pl.evaluation.pairs import (
    correctness,
    decided,
    is_length_matched,
    judge_counts,
    judge_metrics,
    judges_named,
    lengths_of,
    p_first_of,
    side,
    stripped,
)
from rlaif_pl.labeling.usage.projection import counted_replies
from rlaif_pl.labeling.usage.spending import CostComparison, Price, compare_costs
from rlaif_pl.labeling.usage.summary import (
    OutcomeCounts,
    PositionBias,
    count_outcomes,
    position_bias,
)
from rlaif_pl.statistics import (
    Estimator,
    Interval,
    brier,
    expected_calibration_error,
    flat_metrics,
    fold,
)
from rlaif_pl.tables import Cell, Table
from rlaif_pl.text import judge_name
from rlaif_pl.types import Labeler, Preference


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

    def render(self, console: Console) -> None:
        """Print the report as a table."""
        shares = {
            "alignment": self.alignment,
            "longer response wins": self.length_baseline,
            "gain over length": self.gain_over_length,
            "alignment at similar length": self.length_matched,
        }
        rows: list[list[Cell]] = [[name, x.percent(), x.n] for name, x in shares.items()]
        rows += [[name, text, ""] for name, text in self._others()]
        title = f"Alignment of {judge_name(self.labeler)} with {judges_named(self.judged)}"
        console.print(Table(title, ["measure", "value [interval]", "pairs"], rows).rich())

    def _others(self) -> Iterator[tuple[str, str]]:
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
        names = ["alignment", "length_baseline", "gain_over_length", "length_matched"]
        names += ["undecided", "ece", "brier", "mean_tokens"]
        values = {name: getattr(self, name) for name in names}
        values |= {"n": self.alignment.n, "length_matched_n": self.length_matched.n}
        values["failures"] = sum(self.failures.values())
        values |= {f"failures_{kind}": count for kind, count in self.failures.items()}
        metrics = flat_metrics(prefix, values) | judge_metrics(self.judged, prefix)
        if self.position is not None:
            metrics |= self.position.to_metrics(prefix)
        metrics |= self.counts.to_metrics(f"{prefix}/count")
        return metrics | self.cost.to_metrics(f"{prefix}/cost")


def measure_alignment(
    labeler: Labeler,
    gold: Sequence[Preference],
    *,
    prices: Price | None = None,
    estimator: Estimator = Estimator(),
) -> AlignmentReport:
    """Label people's pairs afresh and compare.

    The labeler never sees the verdict; surplus symbols at the end of a response are removed first.

    Args:
        labeler: Judge to measure.
        gold: Pairs with people's ``p_first``; undecided ones are left out and counted.
        prices: The labeler's prices for the cost comparison; None takes what was charged.
        estimator: How intervals are made.

    Raises:
        ValueError: No pair is decided or none could be labeled.
    """
    kept = decided(gold)  # nothing is spent on pairs that cannot be compared
    blind = [replace(stripped(gold[i]), p_first=None, source=None) for i in kept]
    labeled = list(gold)
    with counted_replies(labeler, f"labeling {len(blind)} pairs"):
        labels = labeler.label(blind)
    for i, label in zip(kept, labels, strict=True):
        labeled[i] = label
    report = alignment_of(labeled, gold, prices=prices, estimator=estimator)
    return replace(report, labeler=labeler.fingerprint)


def alignment_of(
    labeled: Sequence[Preference],
    gold: Sequence[Preference],
    *,
    prices: Price | None = None,
    estimator: Estimator = Estimator(),
) -> AlignmentReport:
    """Compare labels that exist with verdicts, row by row; the rest as of ``measure_alignment``."""
    usable, undecided, failures = _usable(labeled, gold)
    rows, people = [labeled[i] for i in usable], [gold[i] for i in usable]
    asked = [labeled[i] for i in decided(gold)]
    truth, judged = p_first_of(people), p_first_of(rows)
    correct = correctness(side(judged - 0.5), side(truth - 0.5))
    lengths = lengths_of([stripped(pair) for pair in people])
    by_length = correctness(side(lengths[0] - lengths[1]), side(truth - 0.5))
    groups = np.unique([pair.group for pair in people], return_inverse=True)[1]
    alike = is_length_matched(*lengths)
    return AlignmentReport(
        labeler=rows[0].provenance.labeler or "unknown",
        judged=judge_counts(people),
        alignment=estimator.share(correct, groups),
        length_baseline=estimator.share(by_length, groups),
        gain_over_length=estimator.share_difference(correct, by_length, groups),
        length_matched=estimator.share(correct[alike], groups[alike]),
        position=position_bias(rows, estimator),
        ece=expected_calibration_error(*fold(judged, truth)),
        brier=brier(judged, truth),
        mean_tokens=float(np.mean([row.provenance.tokens for row in rows])),
        undecided=undecided,
        failures=failures,
        counts=count_outcomes(asked),
        cost=compare_costs(asked, prices, estimator),
    )


def _usable(
    labeled: Sequence[Preference], gold: Sequence[Preference]
) -> tuple[list[int], int, dict[str, int]]:
    """Return positions with a verdict and a label, undecided pairs, and failures by kind."""
    if len(labeled) != len(gold):
        raise ValueError(f"expected a label per gold pair, got {len(labeled)} for {len(gold)}")
    kept = decided(gold)
    usable = [i for i in kept if labeled[i].p_first is not None]
    failed = (labeled[i].provenance for i in kept if labeled[i].p_first is None)
    failures = dict(Counter(provenance.failure or "unlabeled" for provenance in failed))
    if not usable:
        undecided = f"{len(gold) - len(kept)} of {len(gold)} gold pairs are undecided"
        if not kept:
            raise ValueError(
                f"expected gold pairs with a verdict that is no tie, got none: {undecided}"
            )
        raise ValueError(
            f"the labeler gave no usable label: {causes(failures)}; {undecided}. {advice(failures)}"
        )
    return usable, len(gold) - len(kept), failures
