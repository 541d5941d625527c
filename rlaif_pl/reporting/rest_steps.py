"""The report's section on ReST: what each Improve step learned from, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlaif_pl.reporting.files import finite, mapping, read_json, records
from rlaif_pl.statistics import Interval, empty_interval
from rlaif_pl.tables import PERCENT, Cell, Column, Columns, Table

# Title and format of what a step's result holds.
SHOWN = {
    "level": ("threshold", ".4g"),
    "kept": ("kept samples", ".0f"),
    "demonstrations": ("of these demonstrations", ".0f"),
    "lr": ("learning rate", ".4g"),
    "reward": ("validation reward", ".3g"),
    "words": ("words", ".1f"),
    "unfinished": ("unfinished, %", PERCENT),
}


@dataclass(frozen=True, slots=True)
class RestStep:
    """One Improve step, or the start (``grow`` and ``improve`` are 0)."""

    grow: int  # grow step
    improve: int  # improve step within it
    is_kept: bool  # whether its policy was kept
    result: Mapping[str, float]  # what was measured; see `methods.rest.Step`

    def __post_init__(self) -> None:
        if finite(mapping(self.result).get("reward")) is None:
            raise ValueError(f"expected a reward in every step, got {self.result!r}")

    @property
    def name(self) -> str:
        """Name in tables and plots."""
        return f"{self.grow}.{self.improve}" if self.improve else "start"

    @property
    def cells(self) -> list[Cell]:
        """The step as a row of the table."""
        known = {name: finite(self.result.get(name)) for name in SHOWN} | {"reward": self.reward}
        verdict = "kept" if self.is_kept else "not kept"
        return [
            str(self.grow) if self.grow else "start",
            str(self.improve) if self.improve else "",
            *known.values(),
            verdict if self.improve else "",
        ]

    @property
    def reward(self) -> Interval:
        """The validation reward."""
        known = {name: x for name in self.result if (x := finite(self.result[name])) is not None}
        return Interval.read(known, "reward") or empty_interval()


def table_of(steps: Sequence[RestStep]) -> Table:
    """Lay the steps out below each other."""
    columns: Columns = ["grow", "improve", *(Column(*each) for each in SHOWN.values()), "policy"]
    return Table("", columns, [step.cells for step in steps])


def read_rest(path: Path) -> list[RestStep]:
    """Read ``steps.json`` of a ``rest`` stage; no steps at all are an empty list."""
    return records(RestStep, read_json(path))


def reading(steps: Sequence[RestStep]) -> str:
    """Say what the loop did to the validation reward, and what that is worth."""
    tried = [step for step in steps if step.improve]
    kept = [step for step in tried if step.is_kept]
    text = f"{len(kept)} of {len(tried)} Improve steps were kept."
    if not kept:
        return f"{text} The policy is the one it started from."
    before, after = steps[0].reward, kept[-1].reward
    text += f" Validation reward went from {before.value:.3g} to {after.value:.3g}"
    if math.isfinite(before.low) and math.isfinite(after.low):
        overlap = after.low <= before.high and before.low <= after.high
        text += "; their intervals overlap" if overlap else "; their intervals are apart"
    return (
        f"{text}. That reward decided which steps were kept, so it flatters the last one: believe what "
        "is measured on other prompts."
    )
