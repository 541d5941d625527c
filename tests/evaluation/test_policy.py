"""The report on a policy: by hand, its metric names, its files, and runs without references."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from rlaif_pl.data.metric_files import write_metrics
from rlaif_pl.evaluation.policy import PolicySamples, evaluate_policy, references_of
from rlaif_pl.statistics import Estimator
from rlaif_pl.types import Prompt

PROMPTS = [
    Prompt("one two three four five six", "1", "two three four"),
    Prompt("red green blue", "2", "green blue"),
    Prompt("up down left right", "3", None),
]
SFT = [["two three", "six"], ["red", "blue"], ["up", "down"]]
POLICY = [["two three four five", "two three four"], ["green blue", "blue"], ["down left", "up"]]


def samples(**changes):
    return PolicySamples(**{"prompts": PROMPTS, "sft": SFT, "policy": POLICY} | changes)


def test_every_quantity_by_hand(length_reward, length_labeler):
    unfinished = [[True, False], [False, False], [False, False]]
    report = evaluate_policy(
        samples(kl=[1.0, 2.0, 3.0], policy_unfinished=unfinished),
        length_reward,
        length_labeler,
        independent=length_labeler,
        estimator=Estimator(200),
    )
    metrics = report.to_metrics()
    # Characters: SFT 9 and 3, 3 and 4, 2 and 4; policy 19 and 14, 10 and 4, 9 and 2.
    assert metrics["a2c/reward_before"] == pytest.approx((0.6 + 0.35 + 0.3) / 3)
    assert metrics["a2c/reward_after"] == pytest.approx((1.65 + 0.7 + 0.55) / 3)
    assert metrics["a2c/reward_gain"] == pytest.approx((1.05 + 0.35 + 0.25) / 3)
    # three prompts: mean 0.55, standard error 0.2517, t of two degrees of freedom 4.3027
    assert metrics["a2c/reward_gain_low"] == pytest.approx(0.55 - 4.3027 * 0.25166, abs=1e-4)
    assert metrics["a2c/length_ratio_low"] >= 0
    # Words: policy 3.5, 1.5, 1.5; SFT 1.5, 1, 1.
    assert metrics["a2c/length_ratio"] == pytest.approx(6.5 / 3.5)
    assert metrics["a2c/kl"] == pytest.approx(2)
    assert metrics["a2c/unfinished"] == pytest.approx(1 / 6)
    # Only prompt 1 has 4-grams: 1 of 1 copied in one response, none in the other.
    assert metrics["a2c/copied_4grams"] == pytest.approx(0.5 / 3)
    assert metrics["sft/copied_4grams"] == 0
    # Against "two three four": P 3/4, R 1 gives 6/7; then 1. Against "green blue": 1; then 2/3.
    assert metrics["a2c/rouge_l"] == pytest.approx(((6 / 7 + 1) / 2 + (1 + 2 / 3) / 2) / 2)
    # Prompt 1: all 4 wins. 2: 10>3, 10>4, 4>3, 4=4: 3.5 / 4. 3: 9>2, 9>4, 2=2 (same text), 2<4.
    expected = (1 + 3.5 / 4 + 2.5 / 4) / 3
    assert metrics["winrate/policy_vs_sft"] == pytest.approx(expected)
    assert metrics["winrate/policy_vs_sft_independent"] == pytest.approx(expected)
    # References have 14 and 10 characters: policy wins, ties; ties, loses.
    assert metrics["winrate/policy_vs_reference"] == pytest.approx((0.75 + 0.25) / 2)
    assert metrics["winrate/sft_vs_reference"] == 0


def test_references_without_a_word_are_not_asked_for_likeness(length_reward, length_labeler):
    prompts = [replace(prompt, reference="...") for prompt in PROMPTS]
    found = evaluate_policy(samples(prompts=prompts), length_reward, length_labeler).to_metrics()
    assert "winrate/policy_vs_sft" in found
    assert not any("rouge" in name for name in found)
    prompts[0] = PROMPTS[0]
    found = evaluate_policy(samples(prompts=prompts), length_reward, length_labeler).to_metrics()
    assert "winrate/policy_vs_sft_rouge" in found


def test_empty_and_repetitive_responses_are_counted(length_reward, length_labeler):
    policy = [["It is too too thin.", "the dog the dog the dog"], ["", "blue"], ["down", "up."]]
    metrics = evaluate_policy(samples(policy=policy), length_reward, length_labeler).to_metrics()
    assert metrics["a2c/repetitive"] == pytest.approx((1 + 0 + 0) / 3)
    assert metrics["a2c/empty"] == pytest.approx((0 + 0.5 + 0) / 3)
    assert metrics["sft/repetitive"] == metrics["sft/empty"] == 0
    # none of 3 prompts: Wilson's upper limit, z^2 / (3 + z^2)
    assert metrics["sft/empty_high"] == pytest.approx(3.8415 / 6.8415, abs=1e-4)


def test_greedy_responses_stand_beside_the_sampled_ones(tmp_path, length_reward, length_labeler):
    greedy = evaluate_policy(
        PolicySamples(PROMPTS, [["six"], ["red"], ["up"]], [["two three"], ["blue"], ["up"]]),
        length_reward,
        length_labeler,
        estimator=Estimator(50),
    )
    report = replace(evaluate_policy(samples(), length_reward, length_labeler), greedy=greedy)
    metrics = report.to_metrics()
    assert metrics["greedy/winrate/policy_vs_sft"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert metrics["greedy/a2c/reward_gain"] == pytest.approx((0.6 + 0.1 + 0) / 3)
    report.write(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [row["sft_greedy"] for row in rows] == ["six", "red", "up"]
    assert [row["policy_greedy"] for row in rows] == ["two three", "blue", "up"]
    stream = io.StringIO()
    report.render(Console(file=stream, width=140))
    assert "Policy on held-out prompts, greedy" in stream.getvalue()


def test_the_promised_metrics_are_there_and_can_be_written(tmp_path, length_reward, length_labeler):
    report = evaluate_policy(
        samples(kl=[1, 1, 1]),
        length_reward,
        length_labeler,
        length_labeler,
        estimator=Estimator(50),
    )
    metrics = report.to_metrics()
    rates = ("policy_vs_sft", "policy_vs_sft_independent", "policy_vs_reference")
    with_interval = ["a2c/reward_gain", *(f"winrate/{name}" for name in rates)]
    plain = {f"a2c/{name}" for name in ("reward_before", "reward_after", "kl", "length_ratio")}
    promised = {f"{name}{end}" for name in with_interval for end in ("", "_low", "_high")}
    assert promised | plain | {"a2c/copied_4grams", "winrate/policy_vs_sft_rouge"} <= set(metrics)
    write_metrics(tmp_path / "metrics.json", metrics)


def test_files_for_the_report(tmp_path, length_reward, length_labeler):
    report = evaluate_policy(samples(), length_reward, length_labeler, estimator=Estimator(50))
    report.write(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [prompt.text for prompt in PROMPTS]
    assert rows[1]["policy"] == POLICY[1]
    assert rows[1]["reward_sft"] == pytest.approx([0.3, 0.4])
    assert rows[2]["reference"] is None
    rates = json.loads((tmp_path / "win_rates.json").read_text())
    assert rates[0]["name"] == "policy_vs_sft"
    assert set(rates[0]) == {"name", "judge", "value", "low", "high", "n"}
    stream = io.StringIO()
    report.render(Console(file=stream, width=140))
    assert "policy_vs_sft_rouge" in stream.getvalue()
    assert "a2c/reward_gain" in stream.getvalue()


def test_without_references_nothing_is_said_about_them(length_reward, length_labeler):
    prompts = [Prompt(prompt.text, prompt.group) for prompt in PROMPTS]
    report = evaluate_policy(
        samples(prompts=prompts), length_reward, length_labeler, estimator=Estimator(50)
    )
    assert list(report.win_rates) == ["policy_vs_sft"]
    assert not [name for name in report.to_metrics() if "rouge" in name or "kl" in name]
    assert references_of(prompts) == {}


def test_a_mute_sft_policy_leaves_the_length_ratio_without_interval(length_reward, length_labeler):
    sft = [["", ""], *SFT[1:]]
    metrics = evaluate_policy(
        samples(sft=sft), length_reward, length_labeler, estimator=Estimator(50)
    ).to_metrics()
    assert metrics["a2c/length_ratio"] == pytest.approx(6.5 / 2)
    assert "a2c/length_ratio_low" not in metrics


def test_a_few_mute_responses_among_many_leave_the_interval(length_reward, length_labeler):
    many = {
        "prompts": [Prompt(f"{p.text} {n}", f"{p.group}-{n}") for n in range(8) for p in PROMPTS],
        "sft": [["", ""], *(SFT * 8)[1:]],
        "policy": POLICY * 8,
    }
    metrics = evaluate_policy(
        samples(**many), length_reward, length_labeler, estimator=Estimator(200)
    ).to_metrics()
    low, high = metrics["a2c/length_ratio_low"], metrics["a2c/length_ratio_high"]
    expected = 8 * 6.5 / (8 * 3.5 - 1.5)
    assert metrics["a2c/length_ratio"] == pytest.approx(expected)
    assert low < expected < high


def test_samples_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="one entry per prompt"):
        samples(sft=SFT[:2])
    with pytest.raises(ValueError, match="one entry per prompt"):
        samples(kl=[1.0])
    with pytest.raises(ValueError, match="at least one response"):
        samples(policy=[["x"], [], ["y"]])
