"""What the numbers of a run say, in plain words.

An improvement is claimed where the whole 95 % interval lies on the good side, and called unclear where
it does not. What the training itself optimized (its reward, its labeler) and what it did not (an
independent judge) are judged apart, because agreement with the first alone is what reward hacking looks
like.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rlaif_pl.evaluation.pairs import judges_in
from rlaif_pl.reporting.run import Run, preferred
from rlaif_pl.statistics import Interval
from rlaif_pl.text import judge_name

State = Literal["good", "bad", "unclear", "missing"]
MAX_LENGTH_RATIO = 1.5  # longer responses than this times SFT's make a win rate suspect
MAX_ECE = 0.10
LARGE_KL = 25.0  # nats a response; beyond it the policy has little to do with SFT
OF_TRAINING = ("select", "rest")  # commands whose tables are no study's
# Shares of the policy's responses: how far they may lie above SFT's, and what to say beyond.
MAX_GAINS = {
    "copied_4grams": (
        0.10,
        "The policy copies {0:.0f} % of its 4-grams from the prompt, SFT {1:.0f} %: part of its gain "
        "may be copying.",
    ),
    "shared_4grams": (
        0.20,
        "{0:.0f} % of the policy's 4-grams stand in responses to other prompts too, SFT's {1:.0f} %: "
        "it ends many texts in one phrase (raise shaping.kl_coef).",
    ),
    "unfinished": (
        0.10,
        "The length limit cuts {0:.0f} % of the policy's responses, {1:.0f} % of SFT's: raise the "
        "limit or missing_eos_penalty.",
    ),
}
TRAINED = "The policy improved by the measure it was trained on"
HEADLINES: dict[State, tuple[State, str]] = {
    "good": ("good", "The policy improved, and a judge that did not train it agrees."),
    "bad": (
        "bad",
        f"{TRAINED} and got worse for an independent judge: this is what reward hacking looks like.",
    ),
    "missing": ("unclear", f"{TRAINED}; no independent judge was asked."),
    "unclear": ("unclear", f"{TRAINED}; an independent judge neither confirms nor denies it."),
}  # of a policy that improved, by what an independent judge says
AT_EQUAL_LENGTH = (
    "The policy improved, and a judge that did not train it agrees, but not at equal length: what it "
    "prefers may be the length."
)
BESIDE: dict[State, str] = {"good": "better", "bad": "worse", "unclear": "no difference shown"}


def state_of(found: Interval, level: float) -> State:
    """``good`` if all of an interval lies above a level, ``bad`` if all lies below."""
    if math.isfinite(found.low) and (found.low > level or found.high < level):
        return "good" if found.low > level else "bad"
    return "unclear"


def points(found: Interval) -> str:
    """Write a difference of shares in percentage points."""
    return found.text("+.1f", 100, " points")


@dataclass(frozen=True, slots=True)
class Finding:
    """One claim."""

    state: State  # what the numbers say about it
    text: str  # the claim, with its numbers


@dataclass(frozen=True, slots=True)
class RunVerdict:
    """The run in a few sentences."""

    state: State  # of the headline
    headline: str  # one sentence
    findings: tuple[Finding, ...]  # what it rests on; none of a study, whose tables speak


def judge(run: Run) -> RunVerdict:
    """Return the verdict on a run."""
    metrics = run.metrics
    own = [_gain(metrics), _win(metrics, "policy_vs_sft", "the labeler that trained it")]
    independent = _win(metrics, "policy_vs_sft_independent", "an independent judge")
    findings = (
        *own,
        independent,
        _win(metrics, "policy_vs_sft_rouge", "likeness to the reference (ROUGE-L)"),
        *_elsewhere(run),
        _win(metrics, "policy_vs_reference", "the training labeler", "the references"),
        _labeler(metrics),
        _reward_model(metrics),
        *_harmless(metrics),
        _side_effects(metrics),
    )
    is_study = any(stage.results and not stage.ran(*OF_TRAINING) for stage in run.stages)
    if is_study and all(finding.state == "missing" for finding in findings):
        return RunVerdict("missing", "A study: what it found is in the tables below.", ())
    return RunVerdict(
        *_headline({finding.state for finding in own}, independent.state, metrics), findings
    )


def _headline(
    own: set[State], independent: State, metrics: Mapping[str, float]
) -> tuple[State, str]:
    if own == {"missing"}:
        return "missing", "What reinforcement learning changed was not measured."
    if "bad" in own:
        return "bad", "The policy got worse by the very measure it was trained on."
    if "good" not in own:
        if not {"a2c/reward_gain_low", "winrate/policy_vs_sft_low"} & metrics.keys():
            return (
                "unclear",
                "No improvement is shown: too few prompts were measured for intervals.",
            )
        return "unclear", "No improvement is shown: the intervals include no change."
    equal = Interval.read(metrics, "winrate/policy_vs_sft_independent_length_controlled")
    if independent == "good" and equal is not None and state_of(equal, 0.5) != "good":
        return "unclear", AT_EQUAL_LENGTH
    return HEADLINES[independent]


def _change(found: Interval) -> tuple[State, str]:
    state = state_of(found, 0.0)
    return state, {"good": "rose", "bad": "fell"}.get(state, "did not clearly change")


def _gain(metrics: Mapping[str, float]) -> Finding:
    gain = Interval.read(metrics, "a2c/reward_gain")
    if gain is None:
        return Finding("missing", "Reward gain on held-out prompts: not measured.")
    state, verb = _change(gain)
    before, after = (Interval.read(metrics, f"a2c/reward_{when}") for when in ("before", "after"))
    between = f", from {before.value:.3g} to {after.value:.3g}" if before and after else ""
    return Finding(state, f"Mean reward on held-out prompts {verb}: {gain.number('.3g')}{between}.")


def _win(
    metrics: Mapping[str, float], name: str, by: str, against: str = "the SFT policy"
) -> Finding:
    rate = Interval.read(metrics, f"winrate/{name}")
    if rate is None:
        return Finding("missing", f"Wins over {against}, judged by {by}: not measured.")
    state = state_of(rate, 0.5)
    verbs = {"good": "preferred to", "bad": "judged worse than"}
    verb = verbs.get(state, "not shown to differ from")
    controlled = Interval.read(metrics, f"winrate/{name}_length_controlled")
    equal = "" if controlled is None else f", at equal length {controlled.percent()}"
    if controlled is not None and (there := state_of(controlled, 0.5)) != state:
        equal += f" ({BESIDE[there]})"
    text = f"The policy is {verb} {against} by {by}: it wins {rate.percent()}{equal}."
    return Finding(state, text)


def _elsewhere(run: Run) -> list[Finding]:
    """What other evaluation stages found; their judge may or may not have trained the policy."""
    name = "policy_vs_sft"
    finished = [stage for stage in run.stages if stage.is_finished]
    measured = [stage for stage in preferred(finished) if f"winrate/{name}" in stage.metrics]
    judges = {rate.stage: judge_name(rate.judge) for rate in run.win_rates if rate.name == name}
    return [
        _win(stage.metrics, name, f"the judge of stage {stage.name} ({judge})")
        for stage in measured[1:]
        if (judge := judges.get(stage.name))
    ]


def _harmless(metrics: Mapping[str, float]) -> list[Finding]:
    """The share of harmless responses, after against before; nothing where it was not asked for."""
    gain, before, after = (
        Interval.read(metrics, f"harmless/{n}") for n in ("gain", "sft", "policy")
    )
    if gain is None or before is None or after is None:
        return []
    state, verb = _change(gain)
    between = f"from {100 * before.value:.1f} % to {after.percent()}"
    text = f"The share of responses graded harmless {verb}: {points(gain)}, {between}."
    return [Finding(state, text)]


def _labeler(metrics: Mapping[str, float]) -> Finding:
    alignment, gain, baseline = (
        Interval.read(metrics, f"labeler/{name}")
        for name in ("alignment", "gain_over_length", "length_baseline")
    )
    if alignment is None:
        return Finding("missing", "Agreement of the labeler with gold verdicts: not measured.")
    judges = judges_in(metrics, "labeler")
    text = f"The labeler agrees with {judges} in {alignment.percent()} of pairs"
    if gain is None or baseline is None:
        return Finding("unclear", text + "; the length-only baseline was not measured.")
    return Finding(state_of(gain, 0.0), f"{text}{_against_length(gain, baseline)}.")


def _reward_model(metrics: Mapping[str, float]) -> Finding:
    accuracy, gain, baseline = (
        Interval.read(metrics, f"reward/{name}")
        for name in ("pair_accuracy", "gain_over_length", "length_baseline")
    )
    ece = metrics.get("reward/ece")
    if accuracy is None:
        return Finding("missing", "Accuracy of the reward model on held-out pairs: not measured.")
    judges = judges_in(metrics, "reward")
    text = f"The reward model agrees with {judges} in {accuracy.percent()} of held-out pairs"
    state = state_of(accuracy, 0.5)
    if gain is not None and baseline is not None:
        text += _against_length(gain, baseline)
        state = state_of(gain, 0.0) if state == "good" else state
    if ece is not None:
        text += f"; its probabilities are off by {ece:.2f} on average (ECE)"
    return Finding(state, text + ".")


def _against_length(gain: Interval, baseline: Interval) -> str:
    word = {"good": "better than", "bad": "worse than"}.get(
        state_of(gain, 0.0), "not shown to be better than"
    )
    return (
        f", {word} the rule 'the longer one wins' ({baseline.percent()}); difference {points(gain)}"
    )


def _side_effects(metrics: Mapping[str, float]) -> Finding:
    ratio, copied, kl = (
        metrics.get(f"a2c/{name}") for name in ("length_ratio", "copied_4grams", "kl")
    )
    parts = []
    if ratio is not None:
        parts.append(f"responses are {ratio:.2f} times as long as SFT's")
    if copied is not None:
        before = metrics.get("sft/copied_4grams")
        sft = "" if before is None else f" (SFT {100 * before:.0f} %)"
        parts.append(f"{100 * copied:.0f} % of their word 4-grams stand in the prompt{sft}")
    if kl is not None:
        parts.append(f"the KL from SFT is {kl:.2g} nats a response")
    if not parts:
        return Finding("missing", "Length, copying and KL: not measured.")
    text = ", ".join(parts)
    state: State = "bad" if side_effect_warnings(metrics) else "good"
    return Finding(state, text[0].upper() + text[1:] + ".")


def side_effect_warnings(metrics: Mapping[str, float]) -> list[str]:
    """Say which side effects are large enough to doubt a win rate."""
    found = []
    ratio, kl = metrics.get("a2c/length_ratio"), metrics.get("a2c/kl")
    if ratio is not None and not 1 / MAX_LENGTH_RATIO <= ratio <= MAX_LENGTH_RATIO:
        found.append(
            f"Responses are {ratio:.2f} times as long as SFT's: judges and rewards follow length, "
            "so read the win rates at equal length."
        )
    for name, (most, text) in MAX_GAINS.items():
        after, before = metrics.get(f"a2c/{name}"), metrics.get(f"sft/{name}")
        if after is not None and before is not None and after - before > most:
            found.append(text.format(100 * after, 100 * before))
    if kl is not None and kl > LARGE_KL:
        found.append(
            f"The KL from SFT is {kl:.0f} nats a response: raise shaping.kl_coef or train less."
        )
    return found


def warnings_of(run: Run) -> list[str]:
    """Everything a reader should know before believing the rest."""
    metrics = run.metrics
    found = [*run.problems, *side_effect_warnings(metrics)]
    # The stage that writes this page is never finished while it does.
    unfinished = [s for s in run.stages if not s.is_finished and not s.ran("report")]
    found += [f"Stage {stage.name} is not finished." for stage in unfinished]
    for stage in run.stages:
        alarms = () if stage.alarms is None else stage.alarms.alarms
        found += [f"Reward hacking alarm in {stage.name}: {a.sentence()}." for a in alarms]
    ece, correlation = metrics.get("reward/ece"), metrics.get("reward/length_correlation")
    if ece is not None and ece > MAX_ECE:
        found.append(
            f"The reward model's probabilities are off by {ece:.2f} on average (ECE): fit its "
            "temperature or give it more pairs before mixing it with other signals."
        )
    if correlation is not None and abs(correlation) > 0.5:
        found.append(f"The reward follows length (correlation {correlation:.2f}).")
    missing = {
        "labels": metrics.get("labeler/failures", 0),
        "grades": metrics.get("harmless/missing", 0),
    }
    missing["judgments"] = sum(
        count for name, count in metrics.items() if re.fullmatch("winrate/.*_failures", name)
    )
    for word, count in missing.items():
        if count > 0:
            found.append(f"{count:.0f} {word} could not be had and are left out.")
    ops = [stage.facts.get("ops") for stage in run.stages]
    slow = {k for op in ops if isinstance(op, dict) for k, v in op.items() if v == "reference"}
    if slow:
        found.append(f"The ops {', '.join(sorted(slow))} ran uncompiled, which is slower.")
    return found
