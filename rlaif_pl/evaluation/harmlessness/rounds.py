"""What each round of revision did to harmlessness and helpfulness, and whether its judge can tell.

The figure on revisions of arXiv 2212.08073, section 3.4. Verdicts of a judge that is not above chance
are no evidence of anything. No reply is shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from rlaif_pl.data.metric_files import save_figure, write_csv, write_page
from rlaif_pl.data.revisions import Revision, chains
from rlaif_pl.evaluation.agreement.measure import measure_alignment
from rlaif_pl.evaluation.pairs import Pairs, judges_named
from rlaif_pl.evaluation.results import error_bars
from rlaif_pl.evaluation.win_rate import WinRate, compare
from rlaif_pl.statistics import Estimator, Interval, empty_interval, flat_metrics
from rlaif_pl.tables import PERCENT, Cell, Column, Columns, Page, Table
from rlaif_pl.types import Labeler

CHANCE = 0.5
PLOT = "rounds.svg"
COLORS = {"harmless": "#1b6ca8", "helpful": "#c2571a"}
GRAY = "#8a8a8a"


@dataclass(frozen=True, slots=True)
class JudgeQuality:
    """How far a judge agrees with gold verdicts."""

    name: str  # what it judges: `harmless`, `helpful`
    labeler: str  # fingerprint of the judge
    gold: str | None  # name of the pairs it was measured on; None where it was not
    judges: str  # who gave their verdicts, as in "agrees with people"
    alignment: Interval  # share of pairs on which it favors the gold side
    length_baseline: Interval  # the same for the rule that the longer response wins
    # share of pairs on which the same slot won in both orders; empty where a judge has no order
    same_slot: Interval

    @property
    def can_tell(self) -> bool:
        """Whether the whole interval of its alignment is above chance."""
        return self.alignment.low > CHANCE

    def text(self) -> str:
        """Say in a sentence what the judge is worth."""
        if self.gold is None:
            return f"{self.name}: the judge was not measured on gold pairs, so nothing is claimed."
        where = f"{self.alignment.percent()} on {self.alignment.n} pairs of {self.gold}"
        rule = f"the longer response wins: {self.length_baseline.percent()}"
        agrees = f"{self.name}: the judge agrees with {self.judges} in {where}"
        if self.can_tell:
            return f"{agrees} ({rule})."
        if self.alignment.high < CHANCE:
            return f"{agrees}, less than by chance ({rule}); nothing is claimed."
        return (
            f"{agrees} ({rule}), which does not show that it is above chance; nothing is claimed."
        )


class RoundResult(NamedTuple):
    """The responses of one round against earlier ones to the same prompts, by one judge."""

    judge: str  # name of the judge
    round: int  # from 1
    against: int  # round compared with: 0, or the one before
    rate: WinRate | None  # of the later responses; None where no prompt has both


@dataclass(frozen=True, slots=True)
class RevisionStudy:
    """Rounds by judges."""

    prompts: int  # prompts with a first answer
    missing: Mapping[int, int]  # prompts without a response, by round
    judges: Mapping[str, JudgeQuality]
    results: Sequence[RoundResult]  # by judge and round

    def reading(self, result: RoundResult) -> str:
        """Say what a result shows; nothing where its judge cannot tell."""
        if not self.judges[result.judge].can_tell:
            return "nothing claimed"
        if result.rate is None or not math.isfinite(result.rate.raw.low):
            return "not measured"
        if result.rate.raw.low > CHANCE:
            return f"more {result.judge}"
        if result.rate.raw.high < CHANCE:
            return f"less {result.judge}"
        return "no difference seen"

    def to_metrics(self) -> dict[str, float]:
        """Return flat numbers ``revisions/...``."""
        metrics: dict[str, float] = {"revisions/prompts": self.prompts}
        metrics |= {f"revisions/missing_{n}": count for n, count in self.missing.items()}
        for name, judge in self.judges.items():
            known = {f"judge_{n}": getattr(judge, n) for n in ("alignment", "length_baseline")}
            can_tell = {"judge_can_tell": float(judge.can_tell)}
            metrics |= flat_metrics(f"revisions/{name}", known | can_tell)
        for result in self.results:
            if result.rate is not None:
                name = f"{result.judge}/round_{result.round}_vs_{result.against}"
                metrics |= result.rate.to_metrics(name, "revisions")
        return metrics


def measure_judge(
    name: str,
    labeler: Labeler,
    gold: Pairs | None,
    gold_name: str | None,
    *,
    estimator: Estimator = Estimator(),
) -> JudgeQuality:
    """Measure a judge on gold pairs, if any. ``ValueError``: none is decided or could be labeled."""
    none = empty_interval()
    if gold is None:
        return JudgeQuality(name, labeler.fingerprint, None, "", none, none, none)
    report = measure_alignment(labeler, gold, estimator=estimator)
    same_slot = none if report.position is None else report.position.same_slot
    shares = report.alignment, report.length_baseline, same_slot
    return JudgeQuality(name, report.labeler, gold_name, judges_named(report.judged), *shares)


def compare_rounds(
    rows: Sequence[Revision],
    judges: Mapping[str, Labeler],
    qualities: Mapping[str, JudgeQuality],
    *,
    estimator: Estimator = Estimator(),
) -> RevisionStudy:
    """Compare every round with the first answers and with the round before.

    ``ValueError``: no prompt has a first answer and a revision, or a judge gave no verdict at all.
    """
    found = chains(rows)
    last = max((number for chain in found.values() for number in chain), default=0)
    if last == 0:
        raise ValueError(
            f"expected first answers and revisions, got {len(rows)} rows without any revision; look "
            "at what revise left out"
        )

    def rate(later: int, earlier: int, judge: Labeler) -> WinRate | None:
        both = [c for c in found.values() if later in c and earlier in c]
        if not both:
            return None
        a, b = ([[chain[n].response] for chain in both] for n in (later, earlier))
        prompts, groups = [c[later].prompt for c in both], [c[later].group for c in both]
        return compare(prompts, a, b, judge, groups, estimator=estimator)

    results = [
        RoundResult(name, n, against, rate(n, against, judge))
        for name, judge in judges.items()
        for n in range(1, last + 1)
        for against in dict.fromkeys((0, n - 1))
    ]
    missing = {n: sum(n not in chain for chain in found.values()) for n in range(1, last + 1)}
    return RevisionStudy(len(found), missing, dict(qualities), results)


def page_of(study: RevisionStudy) -> Page:
    """Lay out the results and what its judges are worth."""
    columns: Columns = ["judge", "round", "against", Column("preferred, %", PERCENT)]
    columns += [Column("at equal length, %", PERCENT), "words", "n"]
    columns += [Column("reading", align="left")]
    rows = [_cells(study, result) for result in study.results]
    title = "Rounds of revision against earlier responses"
    return Page([Table(title, columns, rows)], notes(study), PLOT, "Preferred by round")


def notes(study: RevisionStudy) -> list[str]:
    """Return what has to be known to read the table, a sentence each."""
    lines = [judge.text() for judge in study.judges.values()]
    lines += [
        f"{judge.name}: the same slot won in both orders in {judge.same_slot.percent()} of the pairs "
        f"of {judge.gold}."
        for judge in study.judges.values()
        if math.isfinite(judge.same_slot.value)
    ]
    gone = {number: count for number, count in study.missing.items() if count}
    if gone:
        each = ", ".join(f"round {number}: {count}" for number, count in gone.items())
        lines.append(f"Of {study.prompts} prompts, left out for want of a revision: {each}.")
    lines.append(
        f"{study.prompts} prompts; both orders are judged; 95 % intervals by prompt; words are "
        "those of the later response over those of the earlier."
    )
    return lines


def write(study: RevisionStudy, folder: Path | str) -> None:
    """Write ``table.md``, ``tables.json``, ``rows.csv`` and ``rounds.svg`` into a folder."""
    target = Path(folder)
    write_csv(target / "rows.csv", [_record(study, result) for result in study.results])
    write_page(target, page_of(study), "table.md")
    save_figure(plot(study), target / PLOT)


def plot(study: RevisionStudy) -> Figure:
    """Draw the share preferred to the first answer; gray, dashed where a judge cannot tell."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(100 * CHANCE, color="black", linewidth=0.8)
    for place, (name, judge) in enumerate(study.judges.items()):
        own = [r for r in study.results if r.judge == name and r.against == 0 and r.rate]
        shift = 0.06 * (place - (len(study.judges) - 1) / 2)
        error_bars(
            axes,
            [result.round + shift for result in own],
            [result.rate.raw for result in own if result.rate],
            marker="o",
            color=COLORS.get(name, "#444444") if judge.can_tell else GRAY,
            linestyle="-" if judge.can_tell else "--",
            label=name if judge.can_tell else f"{name} (judge not shown to be above chance)",
        )
    axes.set_xticks(sorted({result.round for result in study.results}))
    axes.set_xlabel("round of critique and revision")
    axes.set_ylabel("preferred to the first answer, %")
    axes.set_ylim(0, 100)
    axes.legend(loc="best", fontsize="small")
    return figure


def _cells(study: RevisionStudy, result: RoundResult) -> list[Cell]:
    against = "first answer" if result.against == 0 else f"round {result.against}"
    known: list[Cell] = ["not measured", None, None, 0]
    if result.rate is not None:
        rate = result.rate
        ratio = f"× {rate.length_ratio:.2f}" if math.isfinite(rate.length_ratio) else None
        known = [rate.raw, rate.length_controlled, ratio, rate.raw.n]
    return [result.judge, result.round, against, *known, study.reading(result)]


def _record(study: RevisionStudy, result: RoundResult) -> dict[str, object]:
    judge, rate, none = study.judges[result.judge], result.rate, empty_interval()
    raw, equal = (none, none) if rate is None else (rate.raw, rate.length_controlled)
    ratio = math.nan if rate is None else rate.length_ratio
    return {
        "judge": result.judge,
        "round": result.round,
        "against": result.against,
        **raw.to_record("preferred"),
        **equal.to_record("length_controlled"),
        "length_ratio": ratio if math.isfinite(ratio) else None,
        "n": raw.n,
        "ties": 0 if rate is None else rate.ties,
        "without_verdict": 0 if rate is None else sum(rate.failures.values()),
        "prompts_without_revision": study.missing[result.round],
        **judge.alignment.to_record("judge_alignment"),
        **judge.length_baseline.to_record("judge_length_baseline"),
        "judge_pairs": judge.alignment.n,
        "judge_gold": judge.gold,
        "judge_can_tell": judge.can_tell,
        "reading": study.reading(result),
    }
