"""Study 2: accuracy of a reward against the pairs it was trained on (arXiv 2309.00267, figure 5).

Each size is drawn several times by post; a draw's smaller training sets are parts of its larger ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from rlaif_pl import statistics
from rlaif_pl.evaluation.pairs import judge_counts, judges_named
from rlaif_pl.evaluation.results import COLORS, StudyResults, plain_axes
from rlaif_pl.recipes.studies import sources
from rlaif_pl.recipes.studies.fitting import Array, Fitter, Method
from rlaif_pl.recipes.studies.sources import ARM_TITLES, TwiceLabeled
from rlaif_pl.statistics import Estimator, Interval
from rlaif_pl.tables import PERCENT, POINTS, Column, Columns, Rows, Table


@dataclass(frozen=True, slots=True)
class Point:
    """A size of the training set."""

    size: int  # pairs trained on
    # by arm, the share of held-out pairs judged as the gold verdicts do, the mean over draws of each
    # pair first; the interval is by post
    accuracy: Mapping[str, Interval]
    # by arm, the standard deviation of accuracy over draws: what the choice of pairs does
    spread: Mapping[str, float]
    gap: Interval | None  # RLAIF less RLHF on the same pairs; None where one of them is not drawn
    detectable: float  # smallest true gap that this sample finds with 80 % power; NaN without a gap


@dataclass(frozen=True, slots=True)
class CurveReport:
    """Points by rising size, and what needs no training."""

    points: Sequence[Point]
    length_rule: Interval
    gold: str
    pairs: int
    draws: int
    folds: int
    method: str


def draw_curve(
    fitter: Fitter,
    data: TwiceLabeled,
    arms: Sequence[str],
    sizes: Sequence[int],
    seeds: Sequence[int],
    folds: int,
    method: Method = "head",
    estimator: Estimator = Estimator(),
) -> CurveReport:
    """Fit every arm at every size, at most what a fold leaves, for every seed."""
    kept = sources.decided_in(data.human)
    truth, groups = data.human[kept], [data.groups[row] for row in kept]
    most = sources.smallest_training_part(data.groups, folds, seeds)
    points = []
    for size in sorted({min(size, most) for size in sizes}):
        correct = {}
        for arm in arms:
            margins = sources.cross_fitted(fitter, data, arm, method, seeds, folds, size=size)
            correct[arm] = np.array([sources.right(row, truth) for row in margins[:, kept]])
        points.append(_point(size, correct, groups, estimator))
    by_length = sources.right(sources.length_margin([data.pairs[row] for row in kept]), truth)
    rule = estimator.share(by_length, groups)
    gold = judges_named(judge_counts(data.pairs))
    return CurveReport(points, rule, gold, len(kept), len(seeds), folds, method)


def _point(
    size: int, correct: Mapping[str, Array], groups: Sequence[str], estimator: Estimator
) -> Point:
    """Summarize one size; ``correct`` is ``(seeds, N)`` by arm."""
    mean = {arm: values.mean(0) for arm, values in correct.items()}
    accuracy = {arm: estimator.share(values, groups) for arm, values in mean.items()}
    by_draw = {arm: values.mean(1) for arm, values in correct.items()}
    spread = {a: float(np.std(v, ddof=1)) if len(v) > 1 else np.nan for a, v in by_draw.items()}
    if not {"ai", "human"} <= mean.keys():
        return Point(size, accuracy, spread, None, np.nan)
    gap = estimator.share_difference(mean["ai"], mean["human"], groups)
    error = statistics.standard_error_by_group(mean["ai"] - mean["human"], groups)
    return Point(size, accuracy, spread, gap, statistics.minimum_detectable_effect(error))


def to_results(report: CurveReport) -> StudyResults:
    """Lay a report out."""
    arms = list(report.points[0].accuracy)
    header: Columns = ["pairs", *(Column(f"{ARM_TITLES[arm]}, %", PERCENT) for arm in arms)]
    header += [Column(f"sd over draws, {ARM_TITLES[arm]}", ".1f") for arm in arms]
    if report.points[0].gap is not None:
        header += [Column("RLAIF - RLHF, points", POINTS), Column("detectable", ".1f")]
    body: Rows = []
    records: list[dict[str, object]] = []
    metrics: dict[str, float] = report.length_rule.to_metrics("curve/length_rule")
    for point in report.points:
        shares = [point.accuracy[arm] for arm in arms]
        body.append([point.size, *shares, *(100 * point.spread[arm] for arm in arms)])
        for arm, share in zip(arms, shares, strict=True):
            metrics |= share.to_metrics(f"curve/{arm}/{point.size}")
            row: dict[str, object] = {
                "arm": ARM_TITLES[arm],
                "pairs": point.size,
                "accuracy": share.value,
            }
            row |= {"low": share.low, "high": share.high, "sd_over_draws": point.spread[arm]}
            records.append(row)
        if point.gap is not None:
            body[-1] += [point.gap, 100 * point.detectable]
            metrics |= point.gap.to_metrics(f"curve/gap/{point.size}")
            metrics[f"curve/gap/{point.size}_detectable"] = point.detectable
    notes = [
        f"{report.pairs} pairs that {report.gold} decided, {report.folds} folds by post, "
        f'{report.draws} draws a size, method "{report.method}". "Longer one wins": '
        f"{report.length_rule.percent()}.",
        "The interval is over posts that are judged; the spread over draws is the luck of the pairs "
        "that are trained on, one standard deviation in points.",
    ]
    tables = [Table(f"Agreement with {report.gold} by pairs trained on", header, body)]
    finite = {key: value for key, value in metrics.items() if np.isfinite(value)}
    caption = "Accuracy of a reward against the number of pairs it was trained on"
    return StudyResults("reward_curve", tables, notes, records, finite, _figure(report), caption)


def _figure(report: CurveReport) -> Figure:
    figure = Figure(figsize=(6.4, 3.4))
    ax = plain_axes(figure)
    sizes = [point.size for point in report.points]
    for color, arm in zip(COLORS, report.points[0].accuracy, strict=False):
        intervals = [point.accuracy[arm] for point in report.points]
        ax.plot(sizes, [100 * i.value for i in intervals], "o-", color=color, label=ARM_TITLES[arm])
        low, high = [100 * i.low for i in intervals], [100 * i.high for i in intervals]
        ax.fill_between(sizes, low, high, color=color, alpha=0.12, linewidth=0)
    rule = 100 * report.length_rule.value
    ax.axhline(rule, color="#777777", linestyle="--", label="longer one wins")
    ax.set_xscale("log", base=2)
    # the size that all pairs make may stand so close to the one before it that the two overlap
    named = [size for size in sizes if size == sizes[-1] or size * 1.25 <= sizes[-1]]
    ax.set_xticks(named, [str(size) for size in named])
    ax.set_xlabel("pairs trained on")
    ax.set_ylabel(f"agreement with {report.gold}, %")
    ax.legend(frameon=False, fontsize=8)
    return figure
