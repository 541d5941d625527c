"""The parts of a report that need more than a look into the records: tables and plots."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlaif_pl.data.metric_files import OF_STAGE
from rlaif_pl.evaluation.gold import judges_in
from rlaif_pl.evaluation.samples import GREEDY
from rlaif_pl.reporting.plots import curve
from rlaif_pl.reporting.run import ReportStage, Run
from rlaif_pl.statistics import Interval

MEANINGS = {
    "labeler/alignment": "labeler agrees with {judges}",
    "labeler/length_baseline": "'the longer one wins' agrees with {judges}",
    "labeler/gain_over_length": "labeler minus length rule",
    "labeler/length_matched": "labeler agrees, on pairs of like length",
    "labeler/same_slot": "the same slot wins in both orders",
    "labeler/position_gap": "difference of the probability between the orders",
    "label/labeled": "pairs with a usable label",
    "label/longer_wins": "labels that favor the longer response",
    "label/same_slot": "labels won by the same slot in both orders",
    "label/cost/ai_usd_per_pair": "US dollars a label",
    "label/cost/human_usd_per_pair": "US dollars a person would be paid for it",
    "labeler/ece": "calibration error of the labels",
    "reward/pair_accuracy": "reward model agrees with {judges} on held-out pairs",
    "reward/ai_agreement": "reward model agrees with held-out AI labels",
    "reward/ece": "calibration error of the reward model",
    "reward/brier": "Brier score of the reward model",
    "a2c/reward_before": "mean reward of SFT on held-out prompts",
    "a2c/reward_after": "mean reward of the policy on them",
    "a2c/reward_gain": "difference, paired by prompt",
    "a2c/kl": "KL from SFT, nats a response",
    "a2c/length_ratio": "words of the policy over words of SFT",
    "a2c/copied_4grams": "share of the policy's 4-grams that stand in the prompt",
    "sft/copied_4grams": "the same for SFT",
    "a2c/unfinished": "share of the policy's responses that the length limit cut",
    "sft/unfinished": "the same for SFT",
    "a2c/repetitive": "share of the policy's responses that repeat themselves",
    "sft/repetitive": "the same for SFT",
    "a2c/empty": "share of the policy's responses without text",
    "sft/empty": "the same for SFT",
    "winrate/policy_vs_sft": "wins over SFT, training labeler",
    "winrate/policy_vs_sft_length_controlled": "the same, predicted at equal length",
    "winrate/policy_vs_sft_independent": "wins over SFT, independent judge",
    "winrate/policy_vs_sft_rouge": "wins over SFT, ROUGE-L with the reference",
    "winrate/policy_vs_reference": "wins over the references, training labeler",
    "rating/people_agree": "share of pairs on which two people agree",
    "rating/kendall_w": "Kendall's W of people's ranks",
    "rating/models/models_agree": "share of pairs on which two language models agree",
    "rating/models/kendall_w": "Kendall's W of language models' ranks",
    "rating/verdicts_by_human": "blind rankings by people",
    "rating/verdicts_by_reading": "blind rankings by language models",
    "select/chosen": "wins of the chosen checkpoint over SFT, on the prompts it was chosen on",
    "harmless/sft": "share of SFT's responses graded harmless",
    "harmless/policy": "share of the policy's",
    "harmless/gain": "difference, paired by prompt",
    "rest/reward_gain": "ReST: validation reward of the last policy minus that of the first",
    "run/seconds": "seconds of all stages",
}
# For each curve: its title, patterns of its metric (the first that matches something wins).
CURVES = (
    ("reward", (r"(^|[/_])(task_)?rewards?(_mean)?$", r"reward(?!.*(std|min|max|_coef))")),
    ("KL from SFT, nats", (r"(^|[/_])kl(_mean)?$", r"(^|[/_])kl(?!_coef|_beta)")),
    ("response length", (r"(^|[/_])(response_)?(length|words|tokens)(_mean)?$", r"length")),
)
ALIGNMENT = (
    ("labeler", "labeler/alignment", False),
    ("longer one wins", "labeler/length_baseline", True),
    ("labeler, like lengths", "labeler/length_matched", False),
)
REINFORCED = r"(^|[/_-])(a2c|rl|ppo)"  # names of stages and metrics of reinforcement learning


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One line of the metrics table."""

    name: str  # metric
    meaning: str  # in words; "" where the name has to do
    value: str  # number with its interval
    stage: str = ""  # whose it is, where stages measured different values


def metric_rows(metrics: Mapping[str, float]) -> list[MetricRow]:
    """Return the metrics without the limits that stand beside their estimates; known ones first.

    Args:
        metrics: Numbers by name, or by ``stage:name`` where stages measured different values.
    """
    limits = {
        f"{name}_{side}" for name in metrics for side in ("low", "high") if f"{name}_low" in metrics
    }
    rank = {name: number for number, name in enumerate(MEANINGS)}
    rows = []
    for key in metrics:
        if key not in limits:
            stage, _, name = key.rpartition(OF_STAGE)
            rows.append(MetricRow(name, _meaning(metrics, name), _number(metrics, key), stage))
    return sorted(rows, key=lambda row: (rank.get(row.name, len(rank)), row.name, row.stage))


def _meaning(metrics: Mapping[str, float], name: str) -> str:
    """Say what a metric is and, of agreement, with whom."""
    judges = judges_in(metrics, name.partition("/")[0])
    plain = name.removeprefix(f"{GREEDY}/")
    meaning = MEANINGS.get(plain, "").replace("{judges}", judges)
    return f"{meaning} (likeliest responses)" if meaning and plain != name else meaning


def _number(metrics: Mapping[str, float], name: str) -> str:
    value = metrics[name]
    found = Interval.read(metrics, name)
    if found is not None and math.isfinite(found.low):
        return found.number(".3g")
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def reinforced(run: Run) -> ReportStage | None:
    """Return the last stage whose history is reinforcement learning's."""
    found = (
        stage
        for stage in reversed(run.stages)
        if stage.history and any(re.search(REINFORCED, n) for n in (stage.name, *stage.history))
    )
    return next(found, None)


def training_curves(stage: ReportStage | None) -> list[tuple[str, str | None]]:
    """Return title and plot of each of ``CURVES``; None where it was not measured."""
    history = {} if stage is None else stage.history
    return [
        (title, name and curve(history[name], f"{title} ({name})", number))
        for number, (title, patterns) in enumerate(CURVES)
        for name in [_match(list(history), patterns)]
    ]


def all_curves(stage: ReportStage) -> list[str]:
    """Plot every metric of a stage that has at least two points."""
    return [
        curve(points, f"{stage.name}: {name}", 2)
        for name, points in sorted(stage.history.items())
        if len(points) > 1 and name != "epoch"
    ]


def _match(names: Sequence[str], patterns: Sequence[str]) -> str | None:
    """Return the first name that the earliest possible pattern matches; training before others."""
    ordered = sorted(names, key=lambda name: ("val" in name, name))
    found = (name for pattern in patterns for name in ordered if re.search(pattern, name))
    return next(found, None)


def alignment_bars(metrics: Mapping[str, float]) -> list[tuple[str, Interval, bool]]:
    """Return the labeler's agreement with gold verdicts beside its baselines, for ``plots.bars``."""
    read = ((label, Interval.read(metrics, name), flag) for label, name, flag in ALIGNMENT)
    return [(label, found, flag) for label, found, flag in read if found is not None]


def fact_rows(stages: Sequence[ReportStage]) -> list[tuple[str, list[str]]]:
    """Return each fact with its values; one value where all stages agree, else one a stage."""
    known = [stage for stage in stages if stage.facts]
    names = list(dict.fromkeys(name for stage in known for name in stage.facts))
    rows = []
    for name in names:
        values = [_fact(stage.facts.get(name)) for stage in known]
        same = len(set(values)) == 1
        each = [f"{s.name}: {v}" for s, v in zip(known, values, strict=True)]
        rows.append((name.replace("_", " "), values[:1] if same else each))
    return rows


def _fact(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if value >= 10_000 else str(value)
    return "none" if value is None else str(value)
