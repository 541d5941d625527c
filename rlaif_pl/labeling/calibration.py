"""Fit a labeler's temperature so that its probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rlaif_pl.statistics import fit_temperature
from rlaif_pl.types import Labeler, Preference

LEAST_PAIRS = 20  # below this the fitted temperature is mostly chance


def labeler_margins(labeler: Labeler, gold: Sequence[Preference]) -> tuple[np.ndarray, np.ndarray]:
    """Label pairs that people have labeled and put both side by side.

    Args:
        labeler: The labeler to calibrate; it never sees the gold verdicts.
        gold: Pairs with ``p_first``; those without, and those it cannot label, are left out.

    Returns:
        Margins in nats, before any temperature, and the probability that the first is better, by
        people. ``(N,)`` each
    """
    known = [pair for pair in gold if pair.p_first is not None]
    blind = [replace(pair, p_first=None, source=None) for pair in known]
    rows = [
        (judged.provenance.margin, pair.p_first)
        for judged, pair in zip(labeler.label(blind), known, strict=True)
        if judged.p_first is not None and judged.provenance.margin is not None
    ]
    table = np.asarray(rows, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def calibrate(labeler: Labeler, gold: Sequence[Preference]) -> float:
    """Set a labeler's temperature to that under which people's labels are likeliest, and return it.

    Use other pairs than those that later report the labeler's quality.

    Raises:
        ValueError: The labeler has no temperature, or fewer than 20 pairs have both a gold label and
            a margin.
    """
    if not hasattr(labeler, "temperature"):
        raise ValueError(
            f"expected a labeler with a temperature to fit, got {type(labeler).__name__}; "
            "leave fit_temperature_on out"
        )
    margins, targets = labeler_margins(labeler, gold)
    if len(margins) < LEAST_PAIRS:
        raise ValueError(
            f"expected at least {LEAST_PAIRS} labeled gold pairs to fit a temperature, got "
            f"{len(margins)} of {len(gold)}; set the temperature by hand or bring more pairs"
        )
    labeler.temperature = fit_temperature(margins, targets)
    return float(labeler.temperature)
