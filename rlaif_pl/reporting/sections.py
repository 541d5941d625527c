"""The parts of a report that need more than a look into the records: tables and plots."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rlaif_pl.data.metric_files import LIMITS, OF_STAGE
from rlaif_pl.evaluation.pairs import judges_in
from rlaif_pl.evaluation.samples import GREEDY
from rlaif_pl.labeling.usage.spending import factor
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
    "a2c/shared_4grams": "share of the policy's 4-grams that answer other prompts too",
    "sft/shared_4grams": "the same for SFT",
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


class MetricRow(NamedTuple):
    """One line of the metrics table."""

    name: str  # metric
    meaning: str  # in words; "" where the name has to do
    value: str  # number with its interval
    stage: str = ""  # whose it is, where stages measured different values


def metric_rows(run: Run) -> list[MetricRow]:
    """Return all metrics of a run without the limits beside them; known ones first."""
    metrics = run.by_stage or run.metrics
    stages = {stage.name: stage.metrics for stage in run.stages}
    limits = {f"{name}{end}" for name in metrics if f"{name}_low" in metrics for end in LIMITS}
    rank = {name: number for number, name in enumerate(MEANINGS)}
    rows = []
    for key in metrics:
        if key in limits:
            continue
        stage, _, name = key.rpartition(OF_STAGE)
        plain = name.removeprefix(f"{GREEDY}/")
        judges = judges_in(stages.get(stage, run.metrics), name.partition("/")[0])
        meaning = MEANINGS.get(plain, "").replace("{judges}", judges)
        meaning += " (likeliest responses)" if meaning and plain != name else ""
        rows.append(MetricRow(name, meaning, _number(metrics, key), stage))
    return sorted(rows, key=lambda row: (rank.get(row.name, len(rank)), row.name, row.stage))


def _number(metrics: Mapping[str, float], name: str) -> str:
    value, found = metrics[name], Interval.read(metrics, name)
    if found is not None and math.isfinite(found.low):
        return found.number(".3g")
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def reinforced(run: Run) -> ReportStage | None:
    """Return the last stage whose history is reinforcement learning's."""
    for stage in reversed(run.stages):
        names = (stage.name, *stage.history)
        if stage.history and any(re.search(REINFORCED, name) for name in names):
            return stage
    return None


def training_curves(stage: ReportStage | None) -> list[tuple[str, str | None]]:
    """Return title and plot of each of ``CURVES``; None where it was not measured."""
    history = {} if stage is None else stage.history
    names = sorted(history, key=lambda name: ("val" in name, name))  # training before others
    found: list[tuple[str, str | None]] = []
    for number, (title, patterns) in enumerate(CURVES):
        name = next((n for each in patterns for n in names if re.search(each, n)), None)
        found.append((title, name and curve(history[name], f"{title} ({name})", number)))
    return found


def all_curves(stage: ReportStage) -> list[str]:
    """Plot every metric of a stage that has at least two points."""
    return [
        curve(points, f"{stage.name}: {name}", 2)
        for name, points in sorted(stage.history.items())
        if len(points) > 1 and name != "epoch"
    ]


def alignment_bars(metrics: Mapping[str, float]) -> list[tuple[str, Interval, bool]]:
    """Return the labeler's agreement with gold verdicts beside its baselines, for ``plots.bars``."""
    read = ((label, Interval.read(metrics, name), flag) for label, name, flag in ALIGNMENT)
    return [(label, found, flag) for label, found, flag in read if found is not None]


def fact_rows(stages: Sequence[ReportStage]) -> list[tuple[str, list[str]]]:
    """Return each fact with its values; one value where all stages agree, else one a stage."""

    def shown(value: object) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{key} {item}" for key, item in value.items())
        if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000:
            return f"{value:,}"
        return "none" if value is None else str(value)

    known = [stage for stage in stages if stage.facts]
    rows = []
    for name in dict.fromkeys(name for stage in known for name in stage.facts):
        values = {stage.name: shown(stage.facts.get(name)) for stage in known}
        different = set(values.values())
        each = [f"{stage}: {value}" for stage, value in values.items()]
        rows.append((name.replace("_", " "), list(different) if len(different) == 1 else each))
    return rows


KINDS = {
    "decided": "labels that favor a side",
    "tied": "ties (a label of 0.5: trained on as such, half in agreement, not in chosen/rejected)",
    "malformed": "malformed: no verdict could be read (not trained on)",
    "refused": "refused to judge (not trained on)",
    "too_long": "too long for the model (not trained on)",
    "failed": "failed calls (not trained on)",
}
UNUSABLE = ("malformed", "refused", "too_long", "failed")
MAX_SAME_SLOT, MAX_UNUSABLE = 0.8, 0.1  # the gate's defaults
SHARES = {
    "longer_wins": "labels that favor the longer response",
    "decided": "labels further than 0.1 from one half",
    "off_option_mass": "probability outside the verdict tokens",
}
Lines = list[tuple[str, str]]  # what was measured, and the figure with its interval, if any


def outcome_lines(metrics: Mapping[str, float], prefix: str = "label") -> Lines:
    """Return pairs by what became of them, and the labels' shares; none where nothing was labeled."""
    lines = [
        (text, f"{metrics[key]:,.0f}")
        for kind, text in KINDS.items()
        if (key := f"{prefix}/count/{kind}") in metrics and (metrics[key] or kind == "decided")
    ]
    shares = ((text, Interval.read(metrics, f"{prefix}/{name}")) for name, text in SHARES.items())
    return lines + [(text, found.percent()) for text, found in shares if found is not None]


def position_lines(metrics: Mapping[str, float], prefix: str = "label") -> Lines:
    """Return what is known of position bias; none where the labeler has no orders."""
    names = ("same_slot", "same_slot_first", "position_gap")
    same, first, gap = (Interval.read(metrics, f"{prefix}/{name}") for name in names)
    if not same:
        return []
    p_value = metrics.get(f"{prefix}/same_slot_p_value")
    told = None if p_value is None else f"{p_value:.2g}"
    counts = [metrics.get(f"{prefix}/same_slot_{slot}", math.nan) for slot in (1, 2)]
    return _known(
        {
            "same slot won in both orders": same.percent(),
            "of these, slot 1": first and first.percent(),
            "pairs won by slot 1 / slot 2": first and " / ".join(f"{n:,.0f}" for n in counts),
            "two-sided binomial p of 'either slot as often'": told,
            "mean difference of the probability between the orders": gap and gap.number(".3g"),
        }
    )


def cost_lines(metrics: Mapping[str, float], prefix: str = "label/cost") -> Lines:
    """Return what a label cost beside what a person's would; none where nothing was labeled."""
    names = ("tokens_read", "tokens_written", "words", "ai_usd", "human_usd")
    read, written, words, ai, human = (
        Interval.read(metrics, f"{prefix}/{name}_per_pair") for name in names
    )
    if not human:
        return []
    cheaper = metrics.get(f"{prefix}/times_cheaper")
    return _known(
        {
            "tokens read a pair": read and read.number(".3g"),
            "tokens written a pair": written and written.number(".3g"),
            "AI label, $ a pair": _dollars(ai),
            "words a person would read for a pair": words and words.number(".3g"),
            "person's label at $0.11 per 50 words, $ a pair": _dollars(human),
            "times cheaper": None if cheaper is None else factor(cheaper),
        }
    )


def _known(lines: Mapping[str, object]) -> Lines:
    return [(text, str(value)) for text, value in lines.items() if value]


def _dollars(found: Interval | None) -> str:
    """Write an amount; a model of one's own is charged nothing, which is not the same as free."""
    if found is None:
        return "not measured"
    return found.number(".3g") if found.value else "nothing charged (machine time is not priced)"


def label_warnings(metrics: Mapping[str, float]) -> list[str]:
    """Say what of the labels a reader should know before believing what was trained on them."""
    found = []
    shares = [metrics.get(f"{prefix}/same_slot", 0.0) for prefix in ("label", "labeler")]
    if same := next((share for share in shares if share > MAX_SAME_SLOT), None):
        found.append(
            f"The same slot won in both orders in {100 * same:.0f} % of pairs: the labels say more "
            "about slots than about responses."
        )
    asked = metrics.get("label/count/asked", 0.0)
    missing = sum(metrics.get(f"label/count/{kind}", 0.0) for kind in UNUSABLE)
    if asked and missing / asked > MAX_UNUSABLE:
        found.append(
            f"{missing:.0f} of {asked:.0f} pairs ({100 * missing / asked:.0f} %) have no label: what "
            "was trained on is what the labeler could judge."
        )
    return found
