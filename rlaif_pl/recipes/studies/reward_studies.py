"""Studies 1 and 2: rewards from AI labels, people's and both, held to the gold verdicts.

The question of arXiv 2309.00267, sections 4.1 and 4.4, and of its figure 5, asked of the reward
models, where a small sample says most.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy.special import expit

from rlaif_pl import statistics
from rlaif_pl.evaluation.pairs import judge_counts, judges_named
from rlaif_pl.evaluation.results import COLORS, StudyResults, error_bars, plain_axes
from rlaif_pl.recipes.studies import sources
from rlaif_pl.recipes.studies.fitting import Array, Fitter, Method
from rlaif_pl.recipes.studies.sources import ARM_TITLES, TwiceLabeled
from rlaif_pl.statistics import Estimator, Interval
from rlaif_pl.tables import PERCENT, POINTS, Cell, Column, Columns, Rows, Table

ALL = "all"
LABELER, LENGTH = "AI labeler itself", "longer one wins"
SURE = 1e-9  # a label this near to 0 or 1 counts as that sure, so that its log-odds exist
Metrics = dict[str, float]
Shares = dict[str, Interval]  # of pairs judged as the gold verdicts do; intervals are by post


def compare_sources(
    fitter: Fitter,
    data: TwiceLabeled,
    arms: Sequence[str],
    seeds: Mapping[Method, Sequence[int]],
    folds: int,
    ai_weight: float = 1.0,
    estimator: Estimator = Estimator(),
) -> StudyResults:
    """Fit every arm by every method and measure all on the gold verdicts, beside AI and length rule.

    ``arms`` are some of ``sources.ARMS``; a method without ``seeds`` is left out; a pair is judged by
    models that saw nothing of its post; ``ai_weight`` is that of the AI's labels in ``hybrid``.
    """
    margins: dict[str, Array] = {}
    for method, own in seeds.items():
        for arm in arms if own else ():
            name = f"{ARM_TITLES[arm]}, {method}"
            margins[name] = sources.cross_fitted(fitter, data, arm, method, own, folds, ai_weight)
    likely = np.clip(data.ai, SURE, 1 - SURE)
    margins[LABELER] = np.log(likely / (1 - likely))[None]
    margins[LENGTH] = sources.length_margin(data.pairs)[None]
    common = sources.decided_in(data.human)
    groups, gold = [data.groups[row] for row in common], judges_named(judge_counts(data.pairs))
    shares = {name: _shares(own, data, estimator) for name, own in margins.items()}
    judges, records, metrics = _judge_table(margins, shares, data, gold)
    differences, compared = _compare(margins, data, estimator)
    posts, labeled = len(set(groups)), int(np.isfinite(data.ai).sum())
    fits = ", ".join(f"{method}: {len(own)}" for method, own in seeds.items())
    notes = [
        f"{len(common)} pairs that {gold} decided, of {posts} posts; {folds} folds by post, every pair "
        f"judged by models that saw nothing of its post; seeds {fits}.",
        f"{labeled} pairs have an AI label. Intervals (95 %) and differences by bootstrap over "
        "posts; a pair counts with its mean over seeds.",
        '"head": a logistic head on the frozen model\'s states; "top": adapters on the upper layers '
        "trained from there.",
        "Detectable: the true difference that this sample would find with 80 % power. A smaller one "
        "can be there unseen; p is adjusted for the number of comparisons (Holm).",
    ]
    metrics |= {"sources/pairs": len(common), "sources/posts": posts} | compared
    caption = "Accuracy of reward models on held-out verdicts, by whose labels they were trained on"
    found = records, _finite(metrics), _sources_figure(shares, gold)
    return StudyResults("reward_sources", [judges, differences], notes, *found, caption)


def _shares(margins: Array, data: TwiceLabeled, estimator: Estimator) -> Shares:
    """By subset of the votes, the share that a judge gets right, a pair with its mean over seeds."""
    shares = {}
    for stratum, truth in {ALL: data.human, **data.strata}.items():
        kept = sources.decided_in(truth)
        owners = [data.groups[row] for row in kept]
        shares[stratum] = estimator.share(_correct(margins[:, kept], truth[kept]), owners)
    return shares


def _judge_table(
    margins: Mapping[str, Array], shares: Mapping[str, Shares], data: TwiceLabeled, gold: str
) -> tuple[Table, list[dict[str, object]], Metrics]:
    """Accuracy, calibration (means over seeds; none of a rule) and spread over seeds, a row a judge."""
    header: Columns = ["judge", *(Column(f"{name}, %", PERCENT) for name in shares[LENGTH])]
    header += [Column("ECE", ".3f"), Column("Brier", ".3f")]
    header += [Column("sd over seeds, points", ".1f")]
    body: Rows = []
    records: list[dict[str, object]] = []
    metrics: Metrics = {}
    truth, kept = data.human, sources.decided_in(data.human)
    for name, own in margins.items():
        errors, scores = [], []
        for row in own if name != LENGTH else ():
            use = kept[np.isfinite(row[kept])]
            confidence, came_true = statistics.fold(expit(row[use]), truth[use])
            errors.append(statistics.expected_calibration_error(confidence, came_true))
            scores.append(statistics.brier(expit(row[use]), truth[use]))
        ece, brier = (float(np.mean(each)) if each else math.nan for each in (errors, scores))
        spread = _spread([_correct(row[None, kept], truth[kept]).mean() for row in own])
        body.append([name, *shares[name].values(), ece, brier, 100 * spread])
        whole = {"ece": ece, "brier": brier, "sd_over_seeds": spread}
        for stratum, share in shares[name].items():
            row_of: dict[str, object] = {"judge": name, "votes": stratum, "accuracy": share.value}
            row_of |= {"low": share.low, "high": share.high, "pairs": share.n}
            records.append(row_of | (whole if stratum == ALL else dict.fromkeys(whole, "")))
            metrics |= share.to_metrics(f"sources/{_slug(name)}/accuracy_{stratum}")
        metrics |= {f"sources/{_slug(name)}/{key}": whole[key] for key in ("ece", "brier")}
    return Table(f"Agreement with {gold} on held-out pairs", header, body), records, metrics


def _compare(
    margins: Mapping[str, Array], data: TwiceLabeled, estimator: Estimator
) -> tuple[Table, Metrics]:
    """Paired differences: arms of a method, methods of an arm, each judge against the length rule."""
    common = sources.decided_in(data.human)
    groups = [data.groups[row] for row in common]
    correct = {n: _correct(m[:, common], data.human[common]) for n, m in margins.items()}
    fitted = [name for name in margins if name not in (LABELER, LENGTH)]
    couples = list(itertools.combinations(fitted, 2))
    asked = [(a, b) for a, b in couples if a.split(", ")[1] == b.split(", ")[1]]
    asked += [(a, b) for a, b in couples if a.split(", ")[0] == b.split(", ")[0]]
    asked += [(a, LENGTH) for a in [*fitted, LABELER]]
    gaps = [_gap(correct[a], correct[b], groups, estimator) for a, b in asked]
    adjusted = statistics.holm([statistics.two_sided_p_value(gap, 0.0) for gap, _ in gaps])
    header: Columns = ["difference", Column("points", POINTS), Column("detectable", ".1f")]
    body: Rows = []
    metrics: Metrics = {}
    for (a, b), (gap, detectable), p in zip(asked, gaps, adjusted, strict=True):
        body.append([f"{a} - {b}", gap, 100 * detectable, p])
        name = f"sources/{_slug(a)}_minus_{_slug(b)}"
        metrics |= gap.to_metrics(name) | {f"{name}_detectable": detectable, f"{name}_p": p}
    header.append(Column("p, adjusted", ".2g"))
    return Table("Differences on the same pairs, points", header, body), metrics


def draw_curve(
    fitter: Fitter,
    data: TwiceLabeled,
    arms: Sequence[str],
    sizes: Sequence[int],
    seeds: Sequence[int],
    folds: int,
    method: Method = "head",
    estimator: Estimator = Estimator(),
) -> StudyResults:
    """Fit every arm at every size, at most what a fold leaves, for every seed.

    Each size is drawn several times by post; a draw's smaller training sets are parts of its larger
    ones, and a pair counts with its mean over draws.
    """
    kept, arms = sources.decided_in(data.human), list(dict.fromkeys(arms))
    truth, groups = data.human[kept], [data.groups[row] for row in kept]
    by_length = sources.right(sources.length_margin([data.pairs[row] for row in kept]), truth)
    rule, gold = estimator.share(by_length, groups), judges_named(judge_counts(data.pairs))
    most = sources.smallest_training_part(data.groups, folds, seeds)
    body: Rows = []
    records: list[dict[str, object]] = []
    metrics: Metrics = rule.to_metrics("curve/length_rule")
    shares: dict[int, Shares] = {}
    for size in sorted({min(size, most) for size in sizes}):
        correct = {}
        for arm in arms:
            margins = sources.cross_fitted(fitter, data, arm, method, seeds, folds, size=size)
            correct[arm] = np.array([sources.right(row, truth) for row in margins[:, kept]])
        shares[size], cells, rows, found = _curve_point(size, correct, groups, estimator)
        body.append(cells)
        records += rows
        metrics |= found
    notes = [
        f"{len(kept)} pairs that {gold} decided, {folds} folds by post, {len(seeds)} draws a size, "
        f'method "{method}". "Longer one wins": {rule.percent()}.',
        "The interval is over posts that are judged; the spread over draws is the luck of the pairs "
        "that are trained on, one standard deviation in points.",
    ]
    tables = [Table(f"Agreement with {gold} by pairs trained on", _curve_header(arms), body)]
    caption = "Accuracy of a reward against the number of pairs it was trained on"
    figure = _curve_figure(shares, rule, gold)
    return StudyResults("reward_curve", tables, notes, records, _finite(metrics), figure, caption)


def _curve_point(
    size: int, correct: Mapping[str, Array], groups: Sequence[str], estimator: Estimator
) -> tuple[Shares, list[Cell], list[dict[str, object]], Metrics]:
    """Summarize one size; ``correct`` is ``(seeds, N)`` by arm."""
    mean = {arm: values.mean(0) for arm, values in correct.items()}
    shares = {arm: estimator.share(values, groups) for arm, values in mean.items()}
    spread = {arm: _spread(values.mean(1)) for arm, values in correct.items()}
    cells: list[Cell] = [size, *shares.values(), *(100 * each for each in spread.values())]
    records: list[dict[str, object]] = []
    metrics: Metrics = {}
    for arm, share in shares.items():
        metrics |= share.to_metrics(f"curve/{arm}/{size}")
        row: dict[str, object] = {"arm": ARM_TITLES[arm], "pairs": size, "accuracy": share.value}
        records.append(row | {"low": share.low, "high": share.high, "sd_over_draws": spread[arm]})
    if {"ai", "human"} <= mean.keys():  # on the same pairs
        gap, detectable = _gap(mean["ai"], mean["human"], groups, estimator)
        cells += [gap, 100 * detectable]
        metrics |= gap.to_metrics(f"curve/gap/{size}")
        metrics[f"curve/gap/{size}_detectable"] = detectable
    return shares, cells, records, metrics


def _curve_header(arms: Sequence[str]) -> Columns:
    header: Columns = ["pairs", *(Column(f"{ARM_TITLES[arm]}, %", PERCENT) for arm in arms)]
    header += [Column(f"sd over draws, {ARM_TITLES[arm]}", ".1f") for arm in arms]
    if {"ai", "human"} <= set(arms):
        header += [Column("RLAIF - RLHF, points", POINTS), Column("detectable", ".1f")]
    return header


def _correct(margins: Array, truth: Array) -> Array:
    """Mean over seeds of each pair's correctness; one half where there is no margin. ``(N,)``."""
    known = np.where(np.isfinite(margins), margins, 0.0)
    return np.mean([sources.right(row, truth) for row in known], axis=0, dtype=np.float64)


def _gap(
    first: Array, second: Array, groups: Sequence[str], estimator: Estimator
) -> tuple[Interval, float]:
    """Paired difference of accuracies, and the least true one that is found with 80 % power."""
    difference = estimator.share_difference(first, second, groups)
    error = statistics.standard_error_by_group(first - second, groups)
    if error == 0:  # all agree, which is luck: a sample finds no difference however small
        error = statistics.standard_error_of(difference)
    return difference, statistics.minimum_detectable_effect(error)


def _spread(accuracies: ArrayLike) -> float:
    values = np.asarray(accuracies)
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _finite(metrics: Metrics) -> Metrics:
    return {key: value for key, value in metrics.items() if math.isfinite(value)}


def _slug(name: str) -> str:
    return name.lower().replace(", ", "_").replace(" ", "_")


def _sources_figure(shares: Mapping[str, Shares], gold: str) -> Figure:
    figure = Figure(figsize=(7.2, 3.2))
    ax, strata = plain_axes(figure), list(shares[LENGTH])
    width = 0.8 / len(strata)
    for number, (stratum, color) in enumerate(zip(strata, itertools.cycle(COLORS), strict=False)):
        intervals = [own[stratum] for own in shares.values()]
        place = np.arange(len(intervals)) + (number - (len(strata) - 1) / 2) * width
        error_bars(ax, place, intervals, fmt="o", color=color, label=stratum)
    ax.axhline(50, color="#999999", linewidth=0.8, linestyle=":")
    names = [textwrap.fill(name.replace(", ", "\n"), 10) for name in shares]
    ax.set_xticks(np.arange(len(names)), names, fontsize=8)
    ax.set_ylabel(f"agreement with {gold}, %")
    ax.legend(title="votes", frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _curve_figure(shares: Mapping[int, Shares], rule: Interval, gold: str) -> Figure:
    figure = Figure(figsize=(6.4, 3.4))
    ax, sizes = plain_axes(figure), list(shares)
    for color, arm in zip(COLORS, shares[sizes[0]], strict=False):
        intervals = [own[arm] for own in shares.values()]
        ax.plot(sizes, [100 * i.value for i in intervals], "o-", color=color, label=ARM_TITLES[arm])
        low, high = [100 * i.low for i in intervals], [100 * i.high for i in intervals]
        ax.fill_between(sizes, low, high, color=color, alpha=0.12, linewidth=0)
    ax.axhline(100 * rule.value, color="#777777", linestyle="--", label="longer one wins")
    ax.set_xscale("log", base=2)
    # the size that all pairs make may stand so close to the one before it that the two overlap
    named = [size for size in sizes if size == sizes[-1] or size * 1.25 <= sizes[-1]]
    ax.set_xticks(named, [str(size) for size in named])
    ax.set_xlabel("pairs trained on")
    ax.set_ylabel(f"agreement with {gold}, %")
    ax.legend(frameon=False, fontsize=8)
    return figure
