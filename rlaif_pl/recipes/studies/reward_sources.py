"""Study 1: reward models from AI labels, people's labels and both, held to the gold verdicts.

The question of arXiv 2309.00267, sections 4.1 and 4.4 (RLAIF, RLHF and both), asked of the reward
models, where a small sample says most.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from scipy.special import expit

from rlaif_pl import statistics
from rlaif_pl.evaluation.pairs import judge_counts, judges_named
from rlaif_pl.evaluation.results import COLORS, StudyResults, error_bars, plain_axes
from rlaif_pl.recipes.studies import sources
from rlaif_pl.recipes.studies.fitting import Array, Fitter, Method
from rlaif_pl.recipes.studies.sources import ARM_TITLES, TwiceLabeled
from rlaif_pl.statistics import Estimator, Interval
from rlaif_pl.tables import PERCENT, POINTS, Column, Columns, Rows, Table

ALL = "all"
LABELER, LENGTH = "AI labeler itself", "longer one wins"
SURE = 1e-9  # a label this near to 0 or 1 counts as that sure, so that its log-odds exist


@dataclass(frozen=True, slots=True)
class Judge:
    """Something that judges pairs, measured on the gold verdicts."""

    name: str
    # share of pairs on which it favors the gold side, by subset of the votes; the mean over seeds of
    # each pair first
    accuracy: Mapping[str, Interval]
    seed_spread: float  # standard deviation of accuracy over seeds; NaN of one
    ece: float  # expected calibration error of `sigmoid(margin)`, mean over seeds; NaN for a rule
    brier: float  # Brier score likewise


@dataclass(frozen=True, slots=True)
class Comparison:
    """Paired difference of two judges on the same pairs."""

    first: str
    second: str  # which is subtracted
    difference: Interval  # of accuracy, with its interval by post
    detectable: float  # smallest true difference this sample finds with 80 % power
    p_adjusted: float  # p-value of no difference, adjusted for all comparisons (Holm)


@dataclass(frozen=True, slots=True)
class SourcesReport:
    """Judges and their differences."""

    judges: Sequence[Judge]  # fitted arms first, then the labeler and the length rule
    comparisons: Sequence[Comparison]  # every two of them that a question asks about
    gold: str  # who gave the gold verdicts, as in "agreement with people"
    pairs: int  # pairs with a gold verdict
    posts: int  # posts they are about
    labeled: int  # pairs with an AI's label
    seeds: Mapping[str, int]  # seeds of each fitted arm by method
    folds: int  # folds by post


def compare_sources(
    fitter: Fitter,
    data: TwiceLabeled,
    arms: Sequence[str],
    seeds: Mapping[Method, Sequence[int]],
    folds: int,
    ai_weight: float = 1.0,
    estimator: Estimator = Estimator(),
) -> SourcesReport:
    """Fit every arm by every method and measure all on the gold verdicts.

    ``arms`` are some of ``sources.ARMS``; a method without ``seeds`` is left out; a pair is judged by
    models that saw nothing of its post; ``ai_weight`` is that of the AI's labels in ``hybrid``.
    """
    margins: dict[str, Array] = {}
    for method, own in seeds.items():
        for arm in arms if own else ():
            name = f"{ARM_TITLES[arm]}, {method}"
            margins[name] = sources.cross_fitted(fitter, data, arm, method, own, folds, ai_weight)
    fitted = list(margins)
    likely = np.clip(data.ai, SURE, 1 - SURE)
    margins[LABELER] = np.log(likely / (1 - likely))[None]
    margins[LENGTH] = sources.length_margin(data.pairs)[None]
    judges = [_judge(name, own, data, estimator) for name, own in margins.items()]
    common = sources.decided_in(data.human)
    groups = [data.groups[row] for row in common]
    correct = {n: _correct(m[:, common], data.human[common]) for n, m in margins.items()}
    couples = list(itertools.combinations(fitted, 2))
    asked = [(a, b) for a, b in couples if a.split(", ")[1] == b.split(", ")[1]]
    asked += [(a, b) for a, b in couples if a.split(", ")[0] == b.split(", ")[0]]
    asked += [(a, LENGTH) for a in [*fitted, LABELER]]
    found = []
    for a, b in asked:
        difference = estimator.share_difference(correct[a], correct[b], groups)
        error = statistics.standard_error_by_group(correct[a] - correct[b], groups)
        found.append((a, b, difference, statistics.minimum_detectable_effect(error)))
    adjusted = statistics.holm([statistics.two_sided_p_value(row[2], 0.0) for row in found])
    return SourcesReport(
        judges,
        [Comparison(*row, p) for row, p in zip(found, adjusted, strict=True)],
        judges_named(judge_counts(data.pairs)),
        pairs=len(common),
        posts=len(set(groups)),
        labeled=int(np.isfinite(data.ai).sum()),
        seeds={str(method): len(own) for method, own in seeds.items()},
        folds=folds,
    )


def _correct(margins: Array, truth: Array) -> Array:
    """Mean over seeds of each pair's correctness; one half where there is no margin. ``(N,)``."""
    known = np.where(np.isfinite(margins), margins, 0.0)
    return np.mean([sources.right(row, truth) for row in known], axis=0, dtype=np.float64)


def _judge(name: str, margins: Array, data: TwiceLabeled, estimator: Estimator) -> Judge:
    accuracy = {}
    for stratum, truth in {ALL: data.human, **data.strata}.items():
        kept = sources.decided_in(truth)
        owners = [data.groups[row] for row in kept]
        accuracy[stratum] = estimator.share(_correct(margins[:, kept], truth[kept]), owners)
    truth, kept = data.human, sources.decided_in(data.human)
    by_seed = [_correct(row[None, kept], truth[kept]).mean() for row in margins]
    errors, scores = [], []
    for row in margins if name != LENGTH else ():
        use = kept[np.isfinite(row[kept])]
        confidence, came_true = statistics.fold(expit(row[use]), truth[use])
        errors.append(statistics.expected_calibration_error(confidence, came_true))
        scores.append(statistics.brier(expit(row[use]), truth[use]))
    spread = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else np.nan
    calibration = float(np.mean(errors)) if errors else np.nan
    return Judge(name, accuracy, spread, calibration, float(np.mean(scores)) if scores else np.nan)


def to_results(report: SourcesReport) -> StudyResults:
    """Lay a report out: tables, notes, rows, numbers and the plot."""
    strata = list(report.judges[0].accuracy)
    header: Columns = ["judge", *(Column(f"{name}, %", PERCENT) for name in strata)]
    header += [Column("ECE", ".3f"), Column("Brier", ".3f")]
    header += [Column("sd over seeds, points", ".1f")]
    body: Rows = [
        [j.name, *(j.accuracy[name] for name in strata), j.ece, j.brier, 100 * j.seed_spread]
        for j in report.judges
    ]
    versus: Columns = ["difference", Column("points", POINTS)]
    versus += [Column("detectable", ".1f"), Column("p, adjusted", ".2g")]
    differences: Rows = [
        [f"{c.first} - {c.second}", c.difference, 100 * c.detectable, c.p_adjusted]
        for c in report.comparisons
    ]
    seeds = ", ".join(f"{method}: {count}" for method, count in report.seeds.items())
    notes = [
        f"{report.pairs} pairs that {report.gold} decided, of {report.posts} posts; {report.folds} "
        f"folds by post, every pair judged by models that saw nothing of its post; seeds {seeds}.",
        f"{report.labeled} pairs have an AI label. Intervals (95 %) and differences by bootstrap over "
        "posts; a pair counts with its mean over seeds.",
        '"head": a logistic head on the frozen model\'s states; "top": adapters on the upper layers '
        "trained from there.",
        "Detectable: the true difference that this sample would find with 80 % power. A smaller one "
        "can be there unseen; p is adjusted for the number of comparisons (Holm).",
    ]
    tables = [
        Table(f"Agreement with {report.gold} on held-out pairs", header, body),
        Table("Differences on the same pairs, points", versus, differences),
    ]
    caption = "Accuracy of reward models on held-out verdicts, by whose labels they were trained on"
    found = _records(report), _metrics(report), _figure(report)
    return StudyResults("reward_sources", tables, notes, *found, caption)


def _records(report: SourcesReport) -> list[dict[str, object]]:
    records: list[dict[str, object]] = []
    for judge in report.judges:
        overall = {"ece": judge.ece, "brier": judge.brier, "sd_over_seeds": judge.seed_spread}
        for stratum, share in judge.accuracy.items():
            row: dict[str, object] = {
                "judge": judge.name,
                "votes": stratum,
                "accuracy": share.value,
            }
            row |= {"low": share.low, "high": share.high, "pairs": share.n}
            records.append(row | (overall if stratum == ALL else dict.fromkeys(overall, "")))
    return records


def _metrics(report: SourcesReport) -> dict[str, float]:
    metrics: dict[str, float] = {"sources/pairs": report.pairs, "sources/posts": report.posts}
    for judge in report.judges:
        name = f"sources/{_slug(judge.name)}"
        for stratum, interval in judge.accuracy.items():
            metrics |= interval.to_metrics(f"{name}/accuracy_{stratum}")
        metrics |= {f"{name}/ece": judge.ece, f"{name}/brier": judge.brier}
    for c in report.comparisons:
        name = f"sources/{_slug(c.first)}_minus_{_slug(c.second)}"
        metrics |= c.difference.to_metrics(name)
        metrics |= {f"{name}_detectable": c.detectable, f"{name}_p": c.p_adjusted}
    return {key: value for key, value in metrics.items() if np.isfinite(value)}


def _slug(name: str) -> str:
    return name.lower().replace(", ", "_").replace(" ", "_")


def _figure(report: SourcesReport) -> Figure:
    figure = Figure(figsize=(7.2, 3.2))
    ax = plain_axes(figure)
    strata = list(report.judges[0].accuracy)
    width = 0.8 / len(strata)
    for number, (stratum, color) in enumerate(zip(strata, itertools.cycle(COLORS), strict=False)):
        intervals = [judge.accuracy[stratum] for judge in report.judges]
        place = np.arange(len(intervals)) + (number - (len(strata) - 1) / 2) * width
        error_bars(ax, place, intervals, fmt="o", color=color, label=stratum)
    ax.axhline(50, color="#999999", linewidth=0.8, linestyle=":")
    names = [textwrap.fill(judge.name.replace(", ", "\n"), 10) for judge in report.judges]
    ax.set_xticks(np.arange(len(names)), names, fontsize=8)
    ax.set_ylabel(f"agreement with {report.gold}, %")
    ax.legend(title="votes", frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
