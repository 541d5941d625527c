"""Study 1: reward models from AI labels, people's labels and both, held to the gold verdicts.

The question of arXiv 2309.00267, sections 4.1 and 4.4 (RLAIF, RLHF and both), asked of the reward
models, where a small sample says most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import expit

from rlaif_pl.evaluation.pairs import judge_counts, judges_named
from rlaif_pl.recipes.studies.fitting import Array, Fitter, Method
from rlaif_pl.recipes.studies.sources import (
    ARM_TITLES,
    TwiceLabeled,
    cross_fitted,
    decided_in,
    length_margin,
    right,
)
from rlaif_pl.statistics import (
    Estimator,
    Interval,
    brier,
    expected_calibration_error,
    fold,
    holm,
    minimum_detectable_effect,
    standard_error_by_group,
    two_sided_p_value,
)

ALL = "all"
LABELER, LENGTH = "AI labeler itself", "longer one wins"
SURE = 1e-9  # a label this near to 0 or 1 counts as that sure, so that its log-odds exist


@dataclass(frozen=True, slots=True)
class Judge:
    """Something that judges pairs, measured on the gold verdicts."""

    name: str  # its name
    # share of pairs on which it favors the gold side, by subset of the votes; the mean over seeds of
    # each pair first
    accuracy: Mapping[str, Interval]
    seed_spread: float  # standard deviation of accuracy over seeds; NaN of one
    ece: float  # expected calibration error of `sigmoid(margin)`, mean over seeds; NaN for a rule
    brier: float  # Brier score likewise


@dataclass(frozen=True, slots=True)
class Comparison:
    """Paired difference of two judges on the same pairs."""

    first: str  # name of one
    second: str  # name of the other, which is subtracted
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

    ``arms`` are some of ``sources.ARMS``; a method without ``seeds`` is left out; each pair is
    judged by models of ``folds`` that saw nothing of its post; ``ai_weight`` is that of the AI's
    labels in ``hybrid``, ``estimator`` makes the intervals, by post.
    """
    margins: dict[str, Array] = {}
    for method, own in seeds.items():
        for arm in arms if own else ():
            name = f"{ARM_TITLES[arm]}, {method}"
            margins[name] = cross_fitted(fitter, data, arm, method, own, folds, ai_weight)
    fitted = list(margins)
    likely = np.clip(data.ai, SURE, 1 - SURE)
    margins[LABELER] = np.log(likely / (1 - likely))[None]
    margins[LENGTH] = length_margin(data.pairs)[None]
    truths = {ALL: data.human, **data.strata}
    judges = [
        _judge(name, own, truths, data.groups, name != LENGTH, estimator)
        for name, own in margins.items()
    ]
    common = decided_in(data.human)
    groups = [data.groups[row] for row in common]
    correct = {n: _correct(m[:, common], data.human[common]) for n, m in margins.items()}
    asked = [(a, b) for a, b in combinations(fitted, 2) if a.split(", ")[1] == b.split(", ")[1]]
    asked += [(a, b) for a, b in combinations(fitted, 2) if a.split(", ")[0] == b.split(", ")[0]]
    asked += [(a, LENGTH) for a in [*fitted, LABELER]]
    comparisons = _compare(asked, correct, groups, estimator)
    finite = int(np.isfinite(data.ai).sum())
    counts = {str(method): len(own) for method, own in seeds.items()}
    gold = judges_named(judge_counts(data.pairs))
    posts = len(set(groups))
    return SourcesReport(judges, comparisons, gold, len(common), posts, finite, counts, folds)


def _correct(margins: Array, truth: Array) -> Array:
    """Mean over seeds of each pair's correctness; one half where there is no margin. ``(N,)``."""
    known = np.where(np.isfinite(margins), margins, 0.0)
    return np.mean([right(row, truth) for row in known], axis=0, dtype=np.float64)


def _judge(
    name: str,
    margins: Array,
    truths: Mapping[str, Array],
    groups: Sequence[str],
    is_probability: bool,
    estimator: Estimator,
) -> Judge:
    accuracy = {}
    for stratum, truth in truths.items():
        kept = decided_in(truth)
        values = _correct(margins[:, kept], truth[kept])
        owners = [groups[row] for row in kept]
        accuracy[stratum] = estimator.share(values, owners)
    truth = truths[ALL]
    kept = decided_in(truth)
    by_seed = [_correct(row[None, kept], truth[kept]).mean() for row in margins]
    errors, scores = [], []
    for row in margins if is_probability else ():
        use = kept[np.isfinite(row[kept])]
        confidence, came_true = fold(expit(row[use]), truth[use])
        errors.append(expected_calibration_error(confidence, came_true))
        scores.append(brier(expit(row[use]), truth[use]))
    return Judge(
        name,
        accuracy,
        float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else float("nan"),
        float(np.mean(errors)) if errors else float("nan"),
        float(np.mean(scores)) if scores else float("nan"),
    )


def _compare(
    asked: Sequence[tuple[str, str]],
    correct: Mapping[str, Array],
    groups: Sequence[str],
    estimator: Estimator,
) -> list[Comparison]:
    found = []
    for a, b in asked:
        difference = estimator.share_difference(correct[a], correct[b], groups)
        error = standard_error_by_group(correct[a] - correct[b], groups)
        found.append((a, b, difference, minimum_detectable_effect(error)))
    adjusted = holm([two_sided_p_value(row[2], 0.0) for row in found])
    return [Comparison(*row, p) for row, p in zip(found, adjusted, strict=True)]
