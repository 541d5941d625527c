"""Which samples pass a threshold, by hand."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn

from rlaif_pl.models import Lora
from rlaif_pl.recipes.rest_improve import Improve, check_levels, passes
from rlaif_pl.training import SFTModule
from rlaif_pl.training.optimizers import mark_adapters

# Prompt a has rewards -1, 0, 1, 3; prompt b has 5 alone; prompt c has 2, 2.
REWARDS = [-1.0, 0.0, 1.0, 3.0, 5.0, 2.0, 2.0]
GROUPS = list("aaaabcc")


def kept(by, level):
    return [n for n, passed in enumerate(passes(REWARDS, GROUPS, by, level)) if passed]


def test_rewards_scaled_by_hand():
    # the least is -1, the greatest 5: one sixth a unit
    for n, place in enumerate([0, 1 / 6, 1 / 3, 2 / 3, 1, 0.5, 0.5]):
        assert n in kept("normalized", max(place - 1e-9, 0))
        assert place == 1 or n not in kept("normalized", place + 1e-9)
    assert passes([4.0, 4.0], ["a", "b"], "normalized", 1.0).tolist() == [True, True]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0.0, [0, 1, 2, 3, 4, 5, 6]),  # all data
        (0.5, [3, 4, 5, 6]),
        (0.6, [3, 4]),  # 2/3 and 1
        (0.7, [4]),
        (1.0, [4]),
    ],
)
def test_one_threshold_on_scaled_rewards(level, expected):
    assert kept("normalized", level) == expected


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0, [0, 1, 2, 3, 4, 5, 6]),
        # the median of a is 0.5: 1 and 3 pass
        (50, [2, 3, 4, 5, 6]),
        # place 0.8 * 3 = 2.4 between 1 and 3: 1.8
        (80, [3, 4, 5, 6]),
        (100, [3, 4, 5, 6]),
    ],
)
def test_a_percentile_of_each_prompt(level, expected):
    assert kept("percentile", level) == expected


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        # a has mean 0.75 and best 3
        (0.0, [2, 3, 4, 5, 6]),
        (0.1, [2, 3, 4, 5, 6]),  # 0.1 * 3 + 0.9 * 0.75 = 0.975
        (0.2, [3, 4, 5, 6]),  # 0.2 * 3 + 0.8 * 0.75 = 1.2
        (1.0, [3, 4, 5, 6]),
    ],
)
def test_between_mean_and_best_of_each_prompt(level, expected):
    assert kept("max_mean", level) == expected


@pytest.mark.parametrize("by", ["percentile", "max_mean"])
def test_the_best_of_a_prompt_always_passes(by):
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=300) / 3  # thirds: sums that are rounded
    groups = [str(n % 60) for n in range(300)]
    greatest = 100 if by == "percentile" else 1
    for level in (0.1 * greatest, 0.7 * greatest, greatest):
        passed = passes(rewards, groups, by, level)
        for name in set(groups):
            rows = [n for n, group in enumerate(groups) if group == name]
            assert passed[max(rows, key=lambda n: rewards[n])]


def test_a_rising_level_keeps_ever_fewer():
    rewards = np.random.default_rng(1).normal(size=200)
    groups = [str(n % 25) for n in range(200)]
    for by, levels in (("normalized", (0, 0.5, 0.9)), ("percentile", (0, 50, 90))):
        sets = [set(np.flatnonzero(passes(rewards, groups, by, level))) for level in levels]
        assert sets[0] > sets[1] > sets[2]


@pytest.mark.parametrize(
    ("by", "levels", "message"),
    [
        ("normalized", [], "a level for each Improve step, got none"),
        ("normalized", [0.5, 1.5], r"normalized levels in \[0, 1\], got 1.5"),
        ("percentile", [90.0, 50.0], "levels that rise"),
        ("median", [1.0], "by to be 'normalized' or 'percentile' or 'max_mean', got 'median'"),
    ],
)
def test_schedules_that_mean_nothing_are_refused(by, levels, message):
    with pytest.raises(ValueError, match=message):
        check_levels(by, levels)


def test_rewards_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="finite rewards"):
        passes([1.0, float("nan")], ["a", "a"], "normalized", 0.5)
    with pytest.raises(ValueError, match="got 0 and 0"):
        passes([], [], "normalized", 0.5)


@pytest.mark.parametrize("lora", [None, Lora()])
def test_a_rate_that_is_not_named_is_that_of_sft(lora):
    weight = nn.Parameter(torch.zeros(2))
    mark_adapters({"layer.weight" if lora is None else "layer.lora_A": weight})
    of_sft = inspect.signature(SFTModule).parameters["optimizer"].default([weight])
    assert Improve(lora=lora).rate(1) == of_sft.param_groups[0]["lr"]
