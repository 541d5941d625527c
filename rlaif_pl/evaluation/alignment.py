"""How far a labeler agrees with people, beside the rule "the longer response wins".

Alignment is the share of pairs on which the labeler's favored side is the one people favored
(arXiv 2309.00267, section 2.3). A figure alone says little: where people prefer longer responses,
a labeler that only measures length looks good. So the length rule, the paired gain over it and the
accuracy on pairs of similar length stand beside it, each with an interval by prompt.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rlaif_pl.evaluation.alignment_report import AlignmentReport, PositionBias, SliceAlignment
from rlaif_pl.evaluation.pairs import (
    Array,
    correctness,
    decided,
    is_length_matched,
    lengths_of,
    p_first_of,
    side,
    stripped,
)
from rlaif_pl.statistics import (
    Interval,
    binomial_test,
    brier,
    expected_calibration_error,
    fold,
    paired_difference,
    proportion_by_group,
)
from rlaif_pl.types import Labeler, Preference, Provenance


def measure_alignment(
    labeler: Labeler,
    gold: Sequence[Preference],
    *,
    slices: Mapping[str, Sequence[str]] | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> AlignmentReport:
    """Label people's pairs afresh and compare.

    The labeler never sees the verdict; surplus symbols at the end of a response are removed first.

    Args:
        labeler: Judge to measure.
        gold: Pairs with people's ``p_first``; undecided ones are left out and counted.
        slices: Further cuts: by name, one label per gold pair ("fails": ["accuracy", ...]).
        level: Coverage of the intervals, in (0, 1).
        draws: Bootstrap resamples.
        seed: Seeds the bootstrap.

    Raises:
        ValueError: No pair is decided or none could be labeled, or a slice has another length.
    """
    kept = decided(gold)  # nothing is spent on pairs that cannot be compared
    blind = [replace(stripped(gold[i]), p_first=None, source=None) for i in kept]
    labeled = list(gold)
    for i, label in zip(kept, labeler.label(blind), strict=True):
        labeled[i] = label
    report = alignment_of(labeled, gold, slices=slices, level=level, draws=draws, seed=seed)
    return replace(report, labeler=labeler.fingerprint)


def alignment_of(
    labeled: Sequence[Preference],
    gold: Sequence[Preference],
    *,
    slices: Mapping[str, Sequence[str]] | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> AlignmentReport:
    """Compare labels that exist already with people's verdicts on the same pairs, row by row.

    Arguments and errors are those of ``measure_alignment``; ``labeled[i]`` judges ``gold[i]``.
    """
    columns = _columns(slices, gold)
    usable, undecided, failures = _usable(labeled, gold)
    rows, people = [labeled[i] for i in usable], [gold[i] for i in usable]
    truth, judged = p_first_of(people), p_first_of(rows)
    correct = correctness(side(judged - 0.5), side(truth - 0.5))
    lengths = lengths_of([stripped(pair) for pair in people])
    by_length = correctness(side(lengths[0] - lengths[1]), side(truth - 0.5))
    groups = np.unique([pair.group for pair in people], return_inverse=True)[1]
    share = partial(_share, groups=groups, level=level, draws=draws, seed=seed)
    cuts = [(name, np.array([c[i] for i in usable])) for name, c in sorted(columns.items())]
    return AlignmentReport(
        labeler=rows[0].provenance.labeler or "unknown",
        alignment=share(correct),
        length_baseline=share(by_length),
        gain_over_length=paired_difference(correct, by_length, groups, level, draws, seed),
        length_matched=share(correct, chosen=is_length_matched(*lengths)),
        position=_position_bias(rows, share),
        ece=expected_calibration_error(*fold(judged, truth)),
        brier=brier(judged, truth),
        mean_tokens=float(np.mean([row.provenance.tokens for row in rows])),
        undecided=undecided,
        failures=failures,
        slices=tuple(
            SliceAlignment(name, str(label), share(correct, chosen=column == label))
            for name, column in cuts
            for label in np.unique(column)
        ),
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
        raise ValueError(
            f"expected labeled pairs with a verdict by people, got none: {len(gold)} gold pairs, "
            f"{len(gold) - len(kept)} undecided, failures {failures}; check data and labeler"
        )
    return usable, len(gold) - len(kept), failures


def _share(
    values: Array,
    *,
    groups: NDArray[np.intp],
    level: float,
    draws: int,
    seed: int,
    chosen: NDArray[np.bool_] | slice = slice(None),
) -> Interval:
    """Mean over the chosen rows with an interval by group."""
    return proportion_by_group(values[chosen], groups[chosen], level, draws, seed)


def _position_bias(
    rows: Sequence[Preference], share: Callable[..., Interval]
) -> PositionBias | None:
    """Measure position bias where the labeler recorded both orders."""
    recorded = np.array([row.provenance.same_slot is not None for row in rows])
    if not recorded.any():
        return None
    same = np.array([row.provenance.same_slot is True for row in rows])
    same_slot = share(same.astype(np.float64), chosen=recorded)
    slots = [slot for row in rows if (slot := _winning_slot(row.provenance)) is not None]
    if not slots:
        return PositionBias(same_slot, math.nan, math.nan)
    first = slots.count(1)
    return PositionBias(same_slot, first / len(slots), binomial_test(first, len(slots)))


def _winning_slot(provenance: Provenance) -> int | None:
    """Slot (1 or 2) that won in both orders, from labelers whose provenance carries ``slot``."""
    slot: int | None = getattr(provenance, "slot", None)
    return slot if provenance.same_slot else None


def _columns(
    slices: Mapping[str, Sequence[str]] | None, gold: Sequence[Preference]
) -> Mapping[str, Sequence[str]]:
    """Check that every slice has one label per gold pair."""
    for name, column in (slices or {}).items():
        if len(column) != len(gold):
            raise ValueError(
                f"expected slice {name!r} to have a label per gold pair ({len(gold)}), "
                f"got {len(column)}"
            )
    return slices or {}
