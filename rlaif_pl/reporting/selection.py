"""The report's section on ``select``: checkpoints kept for their validation reward, and the choice."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlaif_pl.reporting.run import ShownWinRate
from rlaif_pl.statistics import Interval
from rlaif_pl.tables import PERCENT, Column, Columns, Rows, Table

CANDIDATE = re.compile(r"select/step_(\d+)_validation_reward")


@dataclass(frozen=True, slots=True)
class CandidateResult:
    """A checkpoint that was judged."""

    step: int  # optimizer steps behind it
    validation_reward: float  # what it was kept for
    rate: Interval  # win rate against SFT, with its interval
    equal: Interval | None  # the same, predicted at equal length; None where there is none
    # length of its responses over that of SFT's; None where there is none
    length_ratio: float | None
    unfinished: float | None  # share of responses that the length limit cut, in [0, 1]
    prompts: int  # prompts it was judged on
    is_chosen: bool  # whether its policy is what was exported

    @property
    def win_rate(self) -> ShownWinRate:
        """As the plots take it."""
        name = f"step {self.step}" + (", chosen" if self.is_chosen else "")
        return ShownWinRate(name, "", self.rate.value, self.rate.low, self.rate.high, self.prompts)


def table_of(judged: Sequence[CandidateResult]) -> Table:
    """Lay the candidates out beside each other."""
    columns: Columns = [
        "step",
        Column("validation reward", ".4g"),
        Column("wins against SFT, %", PERCENT),
        Column("at equal length, %", PERCENT),
        Column("words, policy / SFT", ".2f"),
        Column("unfinished, %", PERCENT),
        "",
    ]
    rows: Rows = [
        [c.step, c.validation_reward, c.rate, c.equal, c.length_ratio, c.unfinished, choice]
        for c in judged
        for choice in ["chosen" * c.is_chosen]
    ]
    return Table("", columns, rows)


def candidates(metrics: Mapping[str, float]) -> list[CandidateResult]:
    """Return the candidates of a ``select`` stage by validation reward, the highest first."""
    found = []
    for name, value in metrics.items():
        match = CANDIDATE.fullmatch(name)
        key = name.removesuffix("_validation_reward")
        rate = Interval.read(metrics, key)
        if match is None or rate is None:
            continue
        step = int(match[1])
        found.append(
            CandidateResult(
                step,
                value,
                rate,
                Interval.read(metrics, f"{key}_length_controlled"),
                metrics.get(f"{key}_length_ratio"),
                metrics.get(f"{key}_unfinished"),
                int(metrics.get(f"{key}_n", 0)),
                metrics.get("select/chosen_step") == step,
            )
        )
    return sorted(found, key=lambda each: (-each.validation_reward, each.step))


def reading(judged: Sequence[CandidateResult]) -> str:
    """Say which was chosen and how much the choice is worth."""
    chosen = next((each for each in judged if each.is_chosen), None)
    if chosen is None:
        return "None was chosen."
    text = f"Step {chosen.step} won most against SFT and was exported: {chosen.rate.percent()}."
    if len(judged) == 1:
        return f"{text} It was the only candidate, so nothing was compared."
    close = [each for each in judged if not each.is_chosen and each.rate.high >= chosen.rate.value]
    if close:
        text += (
            f" Of the {len(judged) - 1} other candidates {len(close)} have intervals that reach up to "
            "that, so the choice may be luck."
        )
    return (
        f"{text} These prompts served to choose, so the rate is too good by what the luckiest of "
        "several gains: believe what is measured on other prompts."
    )
