"""Preferences of several sources, each with a weight, as in arXiv 2309.00267, appendix K."""

from __future__ import annotations

import logging
import math
import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

from rlaif_pl.data.disk_rows import DiskRows
from rlaif_pl.data.preferences import LoadedPreferences
from rlaif_pl.data.sources import Data, load_preferences, named
from rlaif_pl.statistics import fit_temperature
from rlaif_pl.types import Preference

LEAST_PAIRS = 20  # below this a fitted temperature is mostly chance
SUREST = 1e-6  # labels nearer to 0 or 1 count as this near when a temperature is fitted
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """What a source's temperature is fitted on.

    Attributes:
        labeled: Pairs that people have judged, as the source's labeler labeled them
            (what ``label`` wrote).
        people: The same pairs with people's labels. Use none that later report the reward's quality.
    """

    labeled: Data
    people: Data


@dataclass(frozen=True)
class PreferencePart:
    """One source of a mix.

    Attributes:
        source: Pairs of responses.
        weight: Multiplies the weight of each pair, above 0.
        temperature: Divides the log-odds of each label, above 0: tones a labeler down that is too
            sure of itself; 1 leaves them as they are. Labels of 0 and 1 stay.
        calibration: Fit the temperature on these pairs in place of giving it.
    """

    source: Data
    weight: float = 1.0
    temperature: float = 1.0
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        for name in ("weight", "temperature"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(
                    f"expected a {name} above 0, got {value}; drop a source that is to count for "
                    "nothing"
                )
        if self.calibration is not None and self.temperature != 1.0:
            raise ValueError(
                f"expected calibration or a temperature, got both (temperature {self.temperature}); "
                "drop one of them"
            )


def load_pairs(source: Data | Sequence[PreferencePart]) -> LoadedPreferences:
    """Read one source of pairs, or several as one set in order; see ``load_preferences`` for errors."""
    if not is_mix(source):
        return load_preferences(source)
    rows: DiskRows[Preference] = DiskRows()
    dropped: Counter[str] = Counter()
    for part in source:
        loaded = load_preferences(part.source)
        name = named(part.source).name
        fitted = None if part.calibration is None else fitted_temperature(part.calibration)
        temperature = fitted or part.temperature
        for row in loaded.rows:
            rows.append(_weighed(row, part.weight, temperature, name))
        dropped.update(loaded.dropped)
        counts = Counter(row.source or "not labeled" for row in loaded.rows)
        judged = ", ".join(f"{count} {source}" for source, count in sorted(counts.items()))
        logger.info(
            "%s: %d pairs (%s), weight %g, temperature %.3g",
            *(name, len(loaded.rows), judged, part.weight, temperature),
        )
    return LoadedPreferences(rows, dict(dropped))


def is_mix(source: object) -> TypeGuard[Sequence[PreferencePart]]:
    """Tell several sources from one, whose records may be a list too; ValueError for an empty list."""
    if not isinstance(source, list | tuple):
        return False
    if not source:
        raise ValueError("expected at least one source of preferences, got an empty list")
    return all(isinstance(part, PreferencePart) for part in source)


def tempered(p_first: float, temperature: float) -> float:
    """Return ``sigmoid(logit(p_first) / temperature)``; 0, 1 and one half stay what they are."""
    if p_first in (0.0, 1.0) or temperature == 1.0:
        return p_first
    odds = (math.log(p_first) - math.log1p(-p_first)) / temperature
    return 1.0 / (1.0 + math.exp(-odds)) if odds >= 0 else 1.0 - 1.0 / (1.0 + math.exp(odds))


def fitted_temperature(calibration: Calibration) -> float:
    """Return the temperature that makes people's labels likeliest given the labeler's."""
    key = operator.attrgetter("group", "first", "second")  # responses are in the same order in both
    people = {key(row): row.p_first for row in load_preferences(calibration.people).rows}
    labeled = load_preferences(calibration.labeled).rows
    both = [
        (min(max(row.p_first, SUREST), 1 - SUREST), target)
        for row in labeled
        if row.p_first is not None and (target := people.get(key(row))) is not None
    ]
    if len(both) < LEAST_PAIRS:
        raise ValueError(
            f"expected at least {LEAST_PAIRS} pairs judged by both to fit a temperature, got "
            f"{len(both)} ({len(labeled)} by the labeler, {len(people)} by people); label the pairs "
            "that people judged, or set the temperature by hand"
        )
    return fit_temperature([math.log(p) - math.log1p(-p) for p, _ in both], [t for _, t in both])


def _weighed(row: Preference, weight: float, temperature: float, name: str) -> Preference:
    row = replace(row, weight=row.weight * weight)
    if temperature == 1.0:
        return row
    if row.p_first is None:
        raise ValueError(
            f"expected labeled pairs in {name}, since they have a temperature, got one without "
            "p_first; label them first, or drop the temperature"
        )
    return replace(row, p_first=tempered(row.p_first, temperature))
