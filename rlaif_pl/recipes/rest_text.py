"""The steps of ReST below each other, and what came of them: table and plot."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from rlaif_pl.evaluation.results import COLORS, error_bars, plain_axes
from rlaif_pl.recipes.rest import Step
from rlaif_pl.statistics import Interval, empty_interval
from rlaif_pl.tables import PERCENT, Cell, Column, Columns, Page, Table

PLOT = "steps.svg"
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


def page_of(steps: Sequence[Step]) -> Page:
    """Lay the steps out, the start first, with what to know to read them."""
    columns: Columns = ["grow", "improve", *(Column(*each) for each in SHOWN.values()), "policy"]
    notes = [
        reading(steps),
        "Steps are named grow.improve. The threshold is on what improve.by of the config says. "
        "Intervals are of 95 %, by prompt.",
    ]
    table = Table("ReST", columns, [_cells(step) for step in steps])
    return Page([table], notes, PLOT, "Validation reward by step")


def reading(steps: Sequence[Step]) -> str:
    """Say what the loop did to the validation reward, and what that is worth."""
    tried = [step for step in steps if step.improve]
    kept = [step for step in tried if step.is_kept]
    text = f"{len(kept)} of {len(tried)} Improve steps were kept."
    if not kept:
        return f"{text} The policy is the one it started from."
    before, after = _reward(steps[0]), _reward(kept[-1])
    text += f" Validation reward went from {before.value:.3g} to {after.value:.3g}"
    if math.isfinite(before.low) and math.isfinite(after.low):
        overlap = after.low <= before.high and before.low <= after.high
        text += "; their intervals overlap" if overlap else "; their intervals are apart"
    return (
        f"{text}. That reward decided which steps were kept, so it flatters the last one: believe what "
        "is measured on other prompts."
    )


def plot(steps: Sequence[Step]) -> Figure:
    """Draw the validation reward of each step with its interval."""
    figure = Figure(figsize=(6.4, 2.2), layout="constrained")
    axes = plain_axes(figure)
    places = list(range(len(steps)))
    rewards = [_reward(step) for step in steps]
    error_bars(axes, places, rewards, scale=1, fmt="o-", color=COLORS[0], linewidth=1.2)
    names = [f"{step.grow}.{step.improve}" if step.improve else "start" for step in steps]
    axes.set_xticks(places, names)
    axes.set_ylabel("validation reward")
    return figure


def _cells(step: Step) -> list[Cell]:
    known = {name: step.result.get(name) for name in SHOWN} | {"reward": _reward(step)}
    verdict = "kept" if step.is_kept else "not kept"
    names = [str(step.grow), str(step.improve)] if step.improve else ["start", ""]
    return [*names, *known.values(), verdict if step.improve else ""]


def _reward(step: Step) -> Interval:
    return Interval.read(step.result, "reward") or empty_interval()
