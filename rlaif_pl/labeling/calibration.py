"""Fit a labeler's temperature so that its probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol, cast

import numpy as np

from rlaif_pl.statistics import fit_temperature
from rlaif_pl.types import Labeler, Preference

LEAST_PAIRS = 20  # below this the fitted temperature is mostly chance


class Margins(NamedTuple):
    """A labeler's margins beside people's verdicts, for the pairs that have both."""

    margins: np.ndarray  # (N,) nats, before any temperature
    targets: np.ndarray  # (N,) probability that the first is better, by people


def labeler_margins(labeler: Labeler, gold: Sequence[Preference]) -> Margins:
    """Label pairs that people have labeled and put both side by side.

    Args:
        labeler: The labeler to calibrate; it never sees the gold verdicts.
        gold: Pairs with ``p_first``; those without, and those it cannot label, are left out.
    """
    known = [pair for pair in gold if pair.p_first is not None]
    blind = [replace(pair, p_first=None, source=None) for pair in known]
    rows = [
        (judged.provenance.margin, pair.p_first)
        for judged, pair in zip(labeler.label(blind), known, strict=True)
        if judged.p_first is not None and judged.provenance.margin is not None
    ]
    table = np.asarray(rows, dtype=np.float64).reshape(-1, 2)
    return Margins(table[:, 0], table[:, 1])


class TemperedLabeler(Labeler, Protocol):
    """A labeler whose probabilities are ``sigmoid(margin / temperature)``."""

    temperature: float


def calibrated(labeler: Labeler, gold: Sequence[Preference]) -> TemperedLabeler:
    """Return the labeler with its temperature fitted on people's labels.

    Raises:
        ValueError: The labeler has no temperature, or there are too few pairs.
    """
    if not hasattr(labeler, "temperature"):
        raise ValueError(
            f"expected a labeler with a temperature to fit, got {type(labeler).__name__}; "
            "leave fit_temperature_on out"
        )
    tempered = cast(TemperedLabeler, labeler)
    tempered.temperature = calibrated_temperature(labeler, gold)
    return tempered


def calibrated_temperature(labeler: Labeler, gold: Sequence[Preference]) -> float:
    """Return the temperature under which people's labels are likeliest.

    Use other pairs than those that later report the labeler's quality.

    Raises:
        ValueError: Fewer than 20 pairs have both a gold label and a margin.
    """
    margins, targets = labeler_margins(labeler, gold)
    if len(margins) < LEAST_PAIRS:
        raise ValueError(
            f"expected at least {LEAST_PAIRS} labeled gold pairs to fit a temperature, got "
            f"{len(margins)} of {len(gold)}; set the temperature by hand or bring more pairs"
        )
    return fit_temperature(margins, targets)
