"""Several rewards with weights are one: their sum, each with the columns it asks for."""

import pytest
import torch
from torch import nn

from rlaif_pl.recipes.rest import reward_identity
from rlaif_pl.rl.function_reward import WeightedRewards, as_reward, rewards_of
from rlaif_pl.rl.reward_columns import check_columns, score_with
from rlaif_pl.types import Prompt, Reward

ASKED, TEXTS = ["p", "q"], ["one", "three four"]


def words(prompts, responses):
    return [float(len(text.split())) for text in responses]


def right(completions, answer):
    return [float(text == said) for text, said in zip(completions, answer, strict=True)]


class Ends(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def score(self, prompts, responses):  # noqa: ARG002 - the protocol's signature
        return self.scale * torch.tensor([text.endswith("r") for text in responses])


def test_it_is_the_weighted_sum_by_hand():
    reward = WeightedRewards([words, right, Ends()], [0.5, 2.0, -1.0])
    assert isinstance(reward, Reward)
    assert reward.names == ["words", "right", "Ends"]
    found = score_with(reward, ASKED, TEXTS, {"answer": ["one", "x"], "other": [1, 2]})
    # 0.5 x 1 + 2 x 1 - 0; 0.5 x 2 + 0 - 2
    assert found.tolist() == [2.5, -1.0]
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert [name for name, _ in reward.named_parameters()] == ["networks.0.scale"]


def test_a_list_is_a_sum():
    reward = as_reward([words, Ends()])
    assert reward.score(ASKED, TEXTS).tolist() == [1.0, 4.0]
    assert list(rewards_of(reward)) == ["words", "Ends"]
    assert rewards_of(as_reward(words)).keys() == {"words"}


def test_each_is_refused_what_it_lacks():
    reward = WeightedRewards([words, right])
    with pytest.raises(
        ValueError, match="columns answer, which WeightedRewards asks for, in row 0"
    ):
        check_columns(reward, [Prompt("p", "g")])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([],), "at least one reward, got 0 rewards"),
        (([words], [1.0, 2.0]), "got 1 rewards, 2 weights and 1 names"),
        (([words], None, ["a", "b"]), "got 1 rewards, 1 weights and 2 names"),
        (([words], [float("inf")]), "expected finite weights and a name of its own"),
        (([words, words],), r"got \[1.0, 1.0\] and words, words; give others"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        WeightedRewards(*arguments)


def test_weights_and_rewards_tell_sums_apart():
    def made(weight=1.0, last=right):
        return reward_identity(WeightedRewards([words, last], [1.0, weight]))

    assert made() == made()
    assert len({made(), made(2.0), made(last=Ends())}) == 3
