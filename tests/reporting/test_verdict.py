import math

import pytest

from rlaif_pl.reporting.run import ReportStage, Run, ShownWinRate
from rlaif_pl.reporting.verdict import (
    judge,
    points,
    side_effect_warnings,
    state_of,
    warnings_of,
)
from rlaif_pl.statistics import Interval


def run_of(metrics, stages=(), problems=()):
    return Run("r", metrics, list(stages), [], [], [], list(problems))


def around(metrics, name, value, half=0.07):
    return {**metrics, name: value, f"{name}_low": value - half, f"{name}_high": value + half}


@pytest.mark.parametrize(
    ("low", "high", "state"),
    [
        (0.51, 0.7, "good"),
        (0.3, 0.49, "bad"),
        (0.4, 0.6, "unclear"),
        (0.5, 0.6, "unclear"),
        (math.nan, math.nan, "unclear"),
    ],
)
def test_a_claim_needs_the_whole_interval_on_one_side(low, high, state):
    assert state_of(Interval(0.6, low, high, 1), 0.5) == state


def test_numbers_are_written_with_their_limits():
    found = Interval(0.6612, 0.59, 0.7349, 1)
    assert found.percent() == "66.1 % [59.0, 73.5]"
    assert found.number(".3g") == "0.661 [0.59, 0.735]"
    assert points(Interval(0.25, 0.18, 0.32, 1)) == "+25.0 points [+18.0, +32.0]"
    assert Interval(0.5, math.nan, math.nan, 1).percent() == "50.0 %"
    assert Interval.read({"a": 1.0}, "b") is None


@pytest.mark.parametrize(
    ("independent", "state", "headline"),
    [
        (0.65, "good", "a judge that did not train it agrees"),
        (0.53, "unclear", "neither confirms nor denies"),
        (0.35, "bad", "reward hacking"),
        (None, "unclear", "no independent judge was asked"),
    ],
)
def test_the_headline_asks_a_judge_that_did_not_train(metrics, independent, state, headline):
    if independent is None:
        del metrics["winrate/policy_vs_sft_independent"]
    else:
        metrics = around(metrics, "winrate/policy_vs_sft_independent", independent)
    verdict = judge(run_of(metrics))
    assert verdict.state == state
    assert headline in verdict.headline


def test_no_gain_is_no_improvement(metrics):
    metrics = around(metrics, "a2c/reward_gain", 0.01)
    metrics = around(metrics, "winrate/policy_vs_sft", 0.52)
    verdict = judge(run_of(metrics))
    assert (verdict.state, verdict.headline) == (
        "unclear",
        "No improvement is shown: the intervals include no change.",
    )
    worse = judge(run_of(around(metrics, "a2c/reward_gain", -0.2)))
    assert (worse.state, "got worse" in worse.headline) == ("bad", True)


def test_findings_name_their_numbers(metrics):
    texts = [finding.text for finding in judge(run_of(metrics)).findings]
    assert texts[0] == (
        "Mean reward on held-out prompts rose: 0.33 [0.26, 0.4], from -0.12 to 0.21."
    )
    assert texts[1].endswith("it wins 66.0 % [59.0, 73.0].")
    assert "better than the rule 'the longer one wins'" in texts[5]
    assert "difference +25.0 points [+18.0, +32.0]" in texts[5]
    assert texts[7] == (
        "Responses are 0.78 times as long as SFT's, 12 % of their word 4-grams stand in the "
        "prompt (SFT 10 %), the KL from SFT is 2.1 nats a response."
    )


def test_nothing_measured_is_said_of_everything():
    verdict = judge(run_of({}))
    assert verdict.state == "missing"
    assert {finding.state for finding in verdict.findings} == {"missing"}
    assert all("not measured" in finding.text for finding in verdict.findings)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"a2c/length_ratio": 1.6}, "1.60 times as long"),
        ({"a2c/length_ratio": 0.5}, "0.50 times as long"),
        (
            {"a2c/unfinished": 0.65, "sft/unfinished": 0.4},
            "cuts 65 % of the policy's responses, 40 %",
        ),
        ({"a2c/copied_4grams": 0.3}, "copies 30 % of its 4-grams from the prompt, SFT 10 %"),
        (
            {"a2c/shared_4grams": 0.4, "sft/shared_4grams": 0.1},
            "40 % of the policy's 4-grams stand in responses to other prompts too, SFT's 10 %",
        ),
        ({"a2c/kl": 40.0}, "40 nats"),
    ],
)
def test_side_effects_are_warned_of(metrics, changed, said):
    assert side_effect_warnings(metrics) == []
    assert said in side_effect_warnings({**metrics, **changed})[0]
    assert judge(run_of({**metrics, **changed})).findings[-1].state == "bad"


def test_the_page_does_not_warn_of_the_stage_that_writes_it(metrics):
    writing = ReportStage("report", False, None, 1, 0.0, "-m rlaif_pl report --config x.yaml")
    assert warnings_of(run_of(metrics, [writing])) == []


def test_warnings_collect_what_makes_numbers_doubtful(metrics):
    assert warnings_of(run_of(metrics)) == []
    stage = ReportStage("a2c", False, None, 1, 0.0, "", facts={"ops": {"gae": "reference"}})
    metrics.update({"reward/ece": 0.2, "labeler/failures": 3, "reward/length_correlation": -0.8})
    said = " ".join(warnings_of(run_of(metrics, [stage], ["x.json could not be read"])))
    for part in (
        "x.json",
        "a2c is not finished",
        "0.20 on average",
        "3 labels",
        "-0.80",
        "gae ran",
    ):
        assert part in said


def evaluated(name, metrics):
    return ReportStage(name, True, 1.0, 1, 1.0, "evaluate policy", metrics=metrics)


def test_what_another_stage_found_stands_beside_it(metrics):
    other = around({}, "winrate/policy_vs_sft", 0.4)
    run = run_of(metrics, [evaluated("judged", other), evaluated("evaluate", dict(metrics))])
    run.win_rates.append(ShownWinRate("policy_vs_sft", "who", 0.4, 0.33, 0.47, 9, "judged"))
    finding = next(f for f in judge(run).findings if "stage judged (who)" in f.text)
    assert finding.state == "bad"
    assert "40.0 % [33.0, 47.0]" in finding.text
    alone = run_of(metrics, [evaluated("evaluate", dict(metrics))])
    assert not any("stage" in finding.text for finding in judge(alone).findings)


def test_the_harmless_rate_is_a_finding_where_it_was_measured(metrics):
    assert not any("harmless" in finding.text for finding in judge(run_of(metrics)).findings)
    rates = around(around({}, "harmless/sft", 0.5), "harmless/policy", 0.6)
    for gain, state in ((0.2, "good"), (0.0, "unclear"), (-0.2, "bad")):
        run = run_of(around({**metrics, **rates}, "harmless/gain", gain))
        finding = next(f for f in judge(run).findings if "harmless" in f.text)
        assert finding.state == state


def test_a_win_that_is_length_is_no_improvement(metrics):
    metrics = around(metrics, "winrate/policy_vs_sft_independent", 0.65)
    name = "winrate/policy_vs_sft_independent_length_controlled"
    assert judge(run_of(around(metrics, name, 0.63))).state == "good"
    verdict = judge(run_of(around(metrics, name, 0.48)))
    assert (verdict.state, "not at equal length" in verdict.headline) == ("unclear", True)
    said = verdict.findings[2].text
    assert said.endswith("at equal length 48.0 % [41.0, 55.0] (no difference shown).")


def test_a_reward_model_is_held_against_the_length_rule(metrics):
    metrics = around(metrics, "reward/pair_accuracy", 0.7)
    metrics = around(metrics, "reward/length_baseline", 0.75)
    finding = judge(run_of(around(metrics, "reward/gain_over_length", -0.05))).findings[6]
    assert finding.state == "unclear"
    assert "not shown to be better than the rule 'the longer one wins' (75.0 %" in finding.text
    assert (
        judge(run_of(around(metrics, "reward/gain_over_length", 0.1))).findings[6].state == "good"
    )


def test_without_intervals_nothing_is_said_of_them():
    verdict = judge(run_of({"a2c/reward_gain": 1.0, "winrate/policy_vs_sft": 1.0}))
    assert verdict.headline == (
        "No improvement is shown: too few prompts were measured for intervals."
    )


def test_judgments_that_any_judge_could_not_give_are_warned_of(metrics):
    failures = {f"winrate/policy_vs_{name}_failures": 2 for name in ("sft", "sft_independent")}
    said = " ".join(warnings_of(run_of(metrics | failures | {"harmless/missing": 3})))
    assert "4 judgments could not be had" in said
    assert "3 grades could not be had" in said
