"""Rewards that are rules, by numbers worked by hand."""

import pytest
import torch

from rlaif_pl.rl import WeightedRewards, shared_4grams

PROMPTS = ["a", "b", "a", "b"]  # as a rollout has them, but for the order
TEXTS = [
    "My dog barks, and I don't know what to do.",  # 4 of its 7 4-grams end the next, too
    "The car broke and I don't know what to do!",
    "My dog barks at night and I want quiet.",  # its like is of its own prompt
    "Too short here",
]


def test_a_phrase_counts_where_another_prompt_is_answered_by_it():
    assert shared_4grams(PROMPTS, TEXTS) == pytest.approx([4 / 7, 4 / 7, 0.0, 0.0])


def test_a_phrase_of_one_prompt_s_own_responses_is_free():
    assert shared_4grams(["a", "a"], [TEXTS[0], TEXTS[0]]) == [0.0, 0.0]
    assert shared_4grams([], []) == []


def test_it_is_a_penalty_with_a_negative_weight():
    both = WeightedRewards([lambda prompts, _: [1.0] * len(prompts), shared_4grams], [1.0, -3.5])
    assert both.names[1] == "shared_4grams"
    torch.testing.assert_close(both.score(PROMPTS, TEXTS), torch.tensor([-1.0, -1.0, 1.0, 1.0]))
