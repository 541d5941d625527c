"""A function as a reward: what it may return, and what is said of the rest."""

from dataclasses import dataclass
from functools import partial, wraps

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from rlaif_pl.recipes.rest import reward_identity
from rlaif_pl.rl.function_reward import (
    FunctionReward,
    NoReward,
    WeightedRewards,
    as_reward,
    as_scores,
    settings_of,
)
from rlaif_pl.types import Reward


def words(prompts, responses):
    return [len(text.split()) for text in responses]


def test_a_function_becomes_a_reward():
    reward = as_reward(words)
    assert isinstance(reward, Reward)
    found = reward.score(["p", "p"], ["a b c", ""])
    assert found.dtype == torch.float32
    assert found.tolist() == [3.0, 0.0]
    assert as_reward(reward) is reward


def test_it_may_return_a_tensor_that_has_a_gradient():
    weight = torch.ones(2, requires_grad=True)
    assert (
        not as_reward(lambda prompts, texts: 2 * weight).score(["p"] * 2, ["a", "b"]).requires_grad
    )


def test_what_is_no_reward_is_refused_with_what_to_write(tiny_model_folder):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model_folder, num_labels=1)
    for given, said in (
        (model, "got LlamaForSequenceClassification; of a model or its folder make Rew"),
        (
            "runs/reward_model",
            r"got str; of a model .*RewardModel.from_pretrained\(..., frozen=True",
        ),
        (NoReward, r"got the class NoReward; make an object of it: NoReward\(...\)"),
        (None, "got NoneType"),
    ):
        with pytest.raises(TypeError, match=said):
            as_reward(given)


@pytest.mark.parametrize("reward", [words, [NoReward(), words], NoReward()])
@pytest.mark.parametrize(
    ("prompts", "responses", "said"),
    [
        (["a"], ["b", "c"], "expected one response a prompt, got 1 prompts and 2 responses"),
        ("abc", ["d", "e", "f"], "expected prompts to be a list of texts, got one"),
        (["a", "b", "c"], "def", "expected responses to be a list of texts, got one"),
    ],
)
def test_prompts_and_responses_are_lists_of_one_length(reward, prompts, responses, said):
    with pytest.raises(ValueError, match=said):
        as_reward(reward).score(prompts, responses)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ([1.0], r"expected short to return 2 rewards, one a response, got shape \(1,\)"),
        ([[1.0], [2.0]], r"got shape \(2, 1\)"),
        ([1.0, float("nan")], "expected finite rewards from short, got nan for response 2 of 2"),
        ([10**400, 1], "expected short to return 2 numbers, one a response, got a list of int"),
        ([1.0, None], "got None for response 2 of 2; return a number for every response, 0 where"),
        (["1", "2"], "got a list of str"),
        (None, "got NoneType"),
        ((1.0 for _ in range(2)), "got generator"),
    ],
)
def test_wrong_rewards_are_refused(returned, said):
    def short(prompts, responses):
        return returned

    class Short:
        name = "short"  # a class of a user's own is held to the same

        def score(self, prompts, responses):
            del prompts, responses
            return returned

    with pytest.raises(ValueError, match=said):
        FunctionReward(short).score(["p", "p"], ["a", "b"])
    with pytest.raises(ValueError, match=said):
        WeightedRewards([Short()]).score(["p", "p"], ["a", "b"])


def test_an_async_function_is_refused():
    async def later(prompts, responses):
        return [0.0 for _ in responses]

    with pytest.raises(ValueError, match="got coroutine; nobody awaits an async function"):
        as_reward(later).score(["p"], ["a"])


def test_a_class_in_place_of_a_reward_is_refused():
    with pytest.raises(TypeError, match=r"got the class Target; make an object of it: Target\("):
        as_reward(Target)


def test_what_is_no_reward_is_refused():
    with pytest.raises(TypeError, match="or a function of prompts and responses, got int"):
        as_reward(3)


def test_a_class_may_return_a_list_of_as_many_numbers():
    assert as_scores([1, 0.5], 2, "Short").tolist() == [1.0, 0.5]
    with pytest.raises(ValueError, match="expected Short to return 3 rewards"):
        as_scores([1, 0.5], 3, "Short")


def test_functions_are_told_apart():
    def other(prompts, responses):
        return [0.0 for _ in responses]

    assert FunctionReward(words).fingerprint == FunctionReward(words).fingerprint
    assert ".words " in FunctionReward(words).fingerprint
    assert FunctionReward(words).fingerprint != FunctionReward(other).fingerprint
    assert reward_identity(FunctionReward(words)) != reward_identity(FunctionReward(other))
    assert FunctionReward(partial(words)).fingerprint.startswith("function partial ")


class Target:
    def __init__(self, target):
        self.target = target

    def score(self, prompts, responses):
        del prompts
        return [-abs(len(text) - self.target) for text in responses]


def test_what_a_reward_was_given_tells_it_from_others():
    assert reward_identity(Target(8)) == reward_identity(Target(8)) != reward_identity(Target(20))
    short, long = (FunctionReward(partial(words, limit)) for limit in (1, 2))
    assert short.fingerprint != long.fingerprint
    assert FunctionReward(partial(words, 1)).fingerprint == short.fingerprint


def closing_over(setting):
    def reward(prompts, responses):
        return [setting for _ in responses]

    return reward


def with_default(setting):
    def reward(prompts, responses, weight=setting, *, other=setting):
        return [weight + other for _ in responses]

    return reward


def wrapped(setting):
    @wraps(words)
    def reward(prompts, responses):
        return [setting * each for each in words(prompts, responses)]

    return reward


class Holding:
    def __init__(self, setting):
        self.setting = setting

    def reward(self, prompts, responses):
        del prompts
        return [self.setting for _ in responses]

    def __call__(self, prompts, responses):
        return self.reward(prompts, responses)


@dataclass(frozen=True, slots=True)
class Slotted:
    setting: object

    def score(self, prompts, responses):
        del prompts
        return [self.setting for _ in responses]


class Net(nn.Module):
    def __init__(self, setting):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        nn.init.constant_(self.layer.weight, setting)
        nn.init.zeros_(self.layer.bias)


class Buffered(nn.Module):
    def __init__(self, setting):
        super().__init__()
        self.register_buffer("scale", torch.tensor(setting))


class Printing(nn.Module):
    def extra_repr(self):
        return repr(object())


GIVEN = {
    "a closure": closing_over,
    "defaults": with_default,
    "a wrapper": wrapped,
    "a bound method": lambda setting: Holding(setting).reward,
    "an object": Holding,
    "a class with slots": Slotted,
    "a function in an object": lambda setting: Holding(closing_over(setting)),
    "an object in a closure": lambda setting: closing_over(Holding(setting)),
    "a function in a partial": lambda setting: partial(words, closing_over(setting)),
    "a list of objects": lambda setting: partial(words, each=[Holding(setting)]),
    "a set": lambda setting: closing_over({"a", "b", setting}),
    "a tensor": lambda setting: closing_over(torch.full((2000,), setting)),
    "an array": lambda setting: Holding(np.array([setting] * 2000)),
    "an array of objects": lambda setting: Holding(np.array([str(setting), Holding(1)])),
    "a type of an array": lambda setting: Holding(np.zeros(2, "f4" if setting < 1 else "i4")),
    "a shape of an array": lambda setting: Holding(np.zeros((1, 4) if setting < 1 else (2, 2))),
    "a number of numpy": lambda setting: closing_over(np.float32(setting)),
    "a network": Net,
    "a network in a closure": lambda setting: closing_over(Net(setting)),
    "a network's buffer": lambda setting: nn.Sequential(Buffered(setting)),
    "a layer without weights": lambda setting: nn.Sequential(nn.LeakyReLU(setting), Printing()),
}


@pytest.mark.parametrize("make", GIVEN.values(), ids=GIVEN)
def test_what_anything_was_given_is_told_without_addresses(make):
    first, again, other = (settings_of(make(setting)) for setting in (0.1, 0.1, 5.0))
    assert first == again != other
    assert " at 0x" not in first


def test_what_holds_itself_is_told_too():
    def reward(prompts, responses):
        return reward, empty

    assert "itself" in settings_of(reward)  # while a cell of it is not filled yet
    empty = Holding(None)
    empty.setting = [empty]
    assert "itself" in settings_of(empty)
