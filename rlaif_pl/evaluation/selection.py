"""Which checkpoint to keep (arXiv 2309.00267, appendix G); table and plot.

A few checkpoints with high validation reward, then the win rate of each against SFT by a judge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from rlaif_pl.evaluation.results import COLORS, error_bars, plain_axes
from rlaif_pl.evaluation.win_rate import WinRate
from rlaif_pl.tables import PERCENT, Column, Columns, Page, Rows, Table
from rlaif_pl.text import judge_name
from rlaif_pl.training.checkpoints import read_checkpoint

LATEST = "last"  # checkpoints to resume from, whatever they are worth
PLOT = "candidates.svg"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checkpoint with the value it was kept for."""

    path: Path  # file
    step: int  # optimizer steps behind it
    value: float  # validation reward when it was saved

    @property
    def name(self) -> str:
        """For tables and metrics."""
        return f"step_{self.step}"


@dataclass(frozen=True, slots=True)
class JudgedCandidate:
    """A candidate and what its samples are worth."""

    candidate: Candidate  # the checkpoint
    rate: WinRate  # against SFT on the same prompts
    unfinished: float  # share of responses that the length limit cut


def read_candidate(path: Path, monitor: str) -> Candidate | None:
    """Read a checkpoint, no weights; None where no ``ModelCheckpoint`` of this monitor had a value."""
    content = read_checkpoint(path, sum_up=False, mmap=True)
    for state in content.get("callbacks", {}).values():
        if isinstance(state, Mapping) and state.get("monitor") == monitor:
            value = state.get("current_score")
            if value is not None and math.isfinite(float(value)):
                return Candidate(path, int(content["global_step"]), float(value))
    return None


def find_candidates(folder: Path, monitor: str, k: int) -> list[Candidate]:
    """Return the ``k`` checkpoints of the highest monitored value. ``ValueError``: there is none."""
    files = [f for f in sorted(folder.glob("*.ckpt")) if not f.name.startswith(LATEST)]
    found = [each for each in (read_candidate(file, monitor) for file in files) if each]
    if not found:
        raise ValueError(
            f"expected checkpoints kept for {monitor} in {folder}, got {len(files)} files without; "
            f"train with ModelCheckpoint(monitor={monitor!r}, mode='max', save_top_k={k})"
        )
    return sorted(found, key=lambda each: (-each.value, each.step))[:k]


def policy_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights of an A2C checkpoint's actor by name. ``ValueError``: it has none."""
    state: dict[str, Any] = read_checkpoint(path)["state_dict"]
    found = {k.removeprefix("actor."): v for k, v in state.items() if k.startswith("actor.")}
    if not found:
        raise ValueError(
            f"expected an A2C checkpoint at {path}, got none of its weights named actor.*"
        )
    return found


def choose(judged: Sequence[JudgedCandidate]) -> JudgedCandidate:
    """Return the one with the highest win rate; of equals the earlier, which has moved less."""
    return min(judged, key=lambda each: (-each.rate.raw.value, each.candidate.step))


def selection_metrics(
    judged: Sequence[JudgedCandidate], chosen: JudgedCandidate
) -> dict[str, float]:
    """Return flat numbers ``select/<step>/...`` and those of the choice."""
    metrics: dict[str, float] = {"select/candidates": len(judged)}
    for each in judged:
        name = each.candidate.name
        metrics |= each.rate.to_metrics(name, "select")
        metrics[f"select/{name}_validation_reward"] = each.candidate.value
        metrics[f"select/{name}_unfinished"] = each.unfinished
    best = chosen.candidate
    metrics |= {"select/chosen_step": best.step, "select/chosen_validation_reward": best.value}
    return metrics | chosen.rate.to_metrics("chosen", "select")


def page_of(judged: Sequence[JudgedCandidate], chosen: JudgedCandidate) -> Page:
    """Lay candidates out, the highest validation reward first, with what to know to read them."""
    columns: Columns = ["step", Column("validation reward", ".4g")]
    columns += [Column("wins against SFT, %", PERCENT), Column("at equal length, %", PERCENT)]
    columns += [Column("words, policy / SFT", ".2f"), Column("unfinished, %", PERCENT), ""]
    rows: Rows = []
    for each in _ranked(judged):
        rate, mark = each.rate, "chosen" * (each is chosen)
        measured = rate.raw, rate.length_controlled, rate.length_ratio, each.unfinished
        rows.append([each.candidate.step, each.candidate.value, *measured, mark])
    prompts = f"{chosen.rate.raw.n} development prompts"
    judge = f"{prompts}, judged by {judge_name(chosen.rate.judge)}; 95 % intervals by prompt."
    table = Table("Checkpoints against SFT", columns, rows)
    return Page([table], [reading(judged, chosen), judge], PLOT, "Wins against SFT by checkpoint")


def reading(judged: Sequence[JudgedCandidate], chosen: JudgedCandidate) -> str:
    """Say which was chosen and how much the choice is worth."""
    won = chosen.rate.raw
    text = f"Step {chosen.candidate.step} won most against SFT and was exported: {won.percent()}."
    others = [each.rate.raw for each in judged if each is not chosen]
    if not others:
        return f"{text} It was the only candidate, so nothing was compared."
    close = sum(not rate.high < won.value for rate in others)  # also where there is no interval
    if close:
        text += (
            f" Of the {len(others)} other candidates {close} have intervals that reach up to that, so "
            "the choice may be luck."
        )
    return (
        f"{text} These prompts served to choose it, so its rate is too good by what the luckiest of "
        "several gains: report on other prompts (evaluate policy), and by a judge that neither labeled "
        "the pairs nor chose here."
    )


def plot(judged: Sequence[JudgedCandidate], chosen: JudgedCandidate) -> Figure:
    """Draw the candidates' wins with their intervals, and a line where neither side wins."""
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes, ranked = plain_axes(figure), _ranked(judged)
    places = list(range(len(ranked)))
    error_bars(axes, places, [each.rate.raw for each in ranked], fmt="o", color=COLORS[0])
    axes.axhline(50, color="black", linewidth=0.8, linestyle="--")
    names = [f"step {each.candidate.step}" + "\nchosen" * (each is chosen) for each in ranked]
    axes.set_xticks(places, names)
    axes.set_xlim(-0.5, len(ranked) - 0.5)
    axes.set_ylabel("wins against SFT, %")
    return figure


def _ranked(judged: Sequence[JudgedCandidate]) -> list[JudgedCandidate]:
    return sorted(judged, key=lambda each: (-each.candidate.value, each.candidate.step))
