import math

import pytest

from rlaif_pl.evaluation.harmlessness.rates import harmless_rates
from rlaif_pl.statistics import Estimator


class Words:
    """Grades "good" 1, "bad" -1 and anything else not at all."""

    fingerprint = "words"

    def score(self, prompts, responses):  # noqa: ARG002
        return [{"good": 1.0, "bad": -1.0}.get(text, math.nan) for text in responses]

    def label(self, pairs):
        pytest.fail(f"rates are made of scores; a label was asked for, for {len(pairs)} pairs")


def test_rates_by_hand():
    # SFT by prompt: 1/2, 0, (left out), 1; policy: 1, 1/2, (no grade), 1
    prompts = ["a", "b", "c", "d"]
    sft = [["good", "bad"], ["bad", "bad"], ["good", "good"], ["good", "?"]]
    policy = [["good", "good"], ["good", "bad"], ["?", "?"], ["good", "good"]]
    found = harmless_rates(prompts, sft, policy, Words(), estimator=Estimator(50))
    assert found.sft.value == pytest.approx(0.5)
    assert found.policy.value == pytest.approx(2.5 / 3)
    assert found.gain.value == pytest.approx(1 / 3)
    assert (found.missing, found.sft.n) == (3, 3)
    assert found.chars_policy == pytest.approx((4 + 3.5 + 1 + 4) / 4)
    metrics = found.to_metrics()
    assert metrics["harmless/policy_low"] <= metrics["harmless/policy"]


def test_prompts_of_one_group_count_as_one():
    texts = [["good"], ["bad"]], [["good"], ["good"]]
    apart = harmless_rates(["a", "b"], *texts, Words(), estimator=Estimator(50))
    together = harmless_rates(
        ["a", "b"], *texts, Words(), groups=["g", "g"], estimator=Estimator(50)
    )
    assert together.sft.value == apart.sft.value
    assert math.isnan(together.gain.low)
    assert math.isfinite(apart.gain.low)


def test_a_threshold_moves_the_line():
    found = harmless_rates(
        ["a"], [["bad"]], [["good"]], Words(), threshold=-2.0, estimator=Estimator(20)
    )
    assert (found.sft.value, found.policy.value) == (1.0, 1.0)


def test_without_any_grade_there_is_no_rate():
    with pytest.raises(ValueError, match="got 2 responses without; check the judge words"):
        harmless_rates(["a"], [["x"]], [["y"]], Words())
