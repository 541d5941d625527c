"""A reward measured on pairs: by hand, against scipy, and its refusals."""

import io
import json
import math

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.stats import spearmanr

from rlaif_pl.evaluation.reward_accuracy import margins, measure_reward
from rlaif_pl.statistics import Estimator
from rlaif_pl.types import Preference, Reward


def pair(first, second, p_first, group):
    return Preference(f"post {group}", first, second, group, p_first, source="human")


class Table:
    """A reward looked up by response."""

    def __init__(self, rewards):
        self.rewards = rewards

    def score(self, prompts, responses):
        assert len(prompts) == len(responses)
        return torch.tensor([self.rewards[text] for text in responses])


GOLD = [
    pair("good one", "bad", 1.0, "1"),  # 8 and 3 characters
    pair("poor", "fine thing", 0.0, "2"),  # 4 and 10
    pair("same", "even", 1.0, "3"),  # 4 and 4
    pair("long but wrong", "right", 0.0, "4"),  # 14 and 5
    pair("x", "y", 0.5, "5"),
]


def test_every_figure_by_hand():
    rewards = {"good one": 1.0, "bad": 0.0, "poor": 0.0, "fine thing": 2.0, "same": 1.0}
    rewards |= {"even": 1.0, "long but wrong": 3.0, "right": 0.0}
    report = measure_reward(Table(rewards), GOLD, GOLD[:2], estimator=Estimator(100))
    assert isinstance(Table(rewards), Reward)
    assert report.pair_accuracy.value == pytest.approx(0.625)  # right, right, tie, wrong
    assert report.length_baseline.value == pytest.approx(0.625)  # right, right, tie, wrong
    assert report.gain_over_length.value == 0
    assert report.ai_agreement.value == 1
    # sigmoid of 1, -2, 0 and 3 is .73106, .11920, .5 and .95257; truth 1, 0, 1, 0:
    assert report.brier == pytest.approx((0.07233 + 0.01421 + 0.25 + 0.90740) / 4, abs=1e-4)
    # Margins 1, -2, 0, 3 and length differences 5, -6, 0, 9 have the same order.
    assert report.length_correlation == pytest.approx(1.0)
    # Confidences .731 right, .881 right, .5 (counts .5), .953 wrong, one a bin:
    assert report.ece == pytest.approx((0.26894 + 0.11920 + 0 + 0.95257) / 4, abs=1e-4)


def test_accuracy_and_correlation_equal_numpy_and_scipy_on_many_pairs():
    rng = np.random.default_rng(0)
    texts = [" ".join(["w"] * n) + f" {i}" for i, n in enumerate(rng.integers(1, 9, 200))]
    rewards = dict(zip(texts, rng.normal(size=200).tolist(), strict=True))
    truth = rng.integers(0, 2, 100)
    pairs = [pair(texts[2 * i], texts[2 * i + 1], float(truth[i]), str(i)) for i in range(100)]
    report = measure_reward(Table(rewards), pairs)
    margin = margins(Table(rewards), pairs)
    lengths = [len(p.first) - len(p.second) for p in pairs]
    assert report.pair_accuracy.value == pytest.approx(np.mean(truth == (margin > 0)))
    assert report.length_correlation == pytest.approx(spearmanr(margin, lengths).statistic)


def test_a_tiny_or_huge_margin_still_has_a_side():
    # In float32 a sigmoid would round 1e-9 to one half and 200 to one.
    rewards = {"good one": 1e-9, "bad": 0.0, "poor": -200.0, "fine thing": 200.0}
    assert measure_reward(Table(rewards), GOLD[:2]).pair_accuracy.value == 1


def test_metrics_and_files(tmp_path, length_reward):
    report = measure_reward(length_reward, GOLD)
    metrics = report.to_metrics()
    assert {"reward/pair_accuracy", "reward/pair_accuracy_low", "reward/ece"} <= set(metrics)
    assert "reward/ai_agreement" not in metrics  # none were given
    report.write(tmp_path)
    bins = json.loads((tmp_path / "reliability.json").read_text())
    assert sum(row["count"] for row in bins) == metrics["reward/n"] == 4
    assert set(bins[0]) == {"confidence", "accuracy", "count"}
    stream = io.StringIO()
    report.render(Console(file=stream, width=100))
    assert "pair accuracy" in stream.getvalue()


def test_without_any_variation_in_length_there_is_no_correlation(length_reward):
    report = measure_reward(length_reward, GOLD[2:3])
    assert math.isnan(report.length_correlation)
    assert "reward/length_correlation" not in report.to_metrics()


def test_rewards_that_are_not_finite_and_pairs_without_verdict_are_refused(length_reward):
    with pytest.raises(ValueError, match="1 of 2 that are NaN"):
        measure_reward(Table({"good one": math.nan, "bad": 0.0}), GOLD[:1])
    with pytest.raises(ValueError, match="none among 1"):
        measure_reward(length_reward, GOLD[4:])


class Shortsighted:
    """A reward that reads one character."""

    def score(self, prompts, responses):  # noqa: ARG002 - the protocol's signature
        return torch.tensor([float(ord(text[0])) for text in responses])

    def tells_apart(self, pairs):
        return [pair.first[0] != pair.second[0] for pair in pairs]


def test_pairs_that_the_reward_cannot_tell_apart_are_left_out_and_counted():
    rows = [("a", "b", 0.0), ("b", "a", 1.0), ("aa", "ab", 1.0)]
    pairs = [
        Preference("post", first, second, f"g{n}", p_first=p)
        for n, (first, second, p) in enumerate(rows)
    ]
    report = measure_reward(Shortsighted(), pairs, pairs[2:], estimator=Estimator(50))
    assert (report.pair_accuracy.value, report.pair_accuracy.n) == (1.0, 2)
    assert report.ai_agreement.n == 0
    assert report.to_metrics()["reward/identical"] == 2
    with pytest.raises(ValueError, match="all of 1 are identical once"):
        measure_reward(Shortsighted(), pairs[2:], estimator=Estimator(50))
