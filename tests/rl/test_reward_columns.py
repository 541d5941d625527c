"""Rewards that name columns of the data are given them, one value a response; others are not."""

from functools import partial

import pytest
import torch
from torch import nn

from rlaif_pl.evaluation.judges import RewardJudge
from rlaif_pl.evaluation.win_rates.measure import choose_best
from rlaif_pl.rl.function_reward import FunctionReward, as_reward
from rlaif_pl.rl.generate import Responses
from rlaif_pl.rl.reward_columns import asks_of, check_columns, columns_of, repeated, score_with
from rlaif_pl.types import Preference, Prompt

ROWS = [
    Prompt("1+2", "a", None, {"answer": "3", "level": 1}),
    Prompt("2+2", "b", "four", {"answer": "4"}),
]
ASKED, TEXTS = ["1+2", "2+2"], ["3", "5"]


def exact(prompts, responses, answer):
    assert prompts == ASKED
    return [float(text == right) for text, right in zip(responses, answer, strict=True)]


def trl(completions, answer, **kwargs):
    """As it stands in TRL: called by names, prompts among the rest."""
    assert kwargs["prompts"] == ASKED
    return [float(text == right) for text, right in zip(completions, answer, strict=True)]


def trl_alone(completions, *, answer):
    return [float(text == right) for text, right in zip(completions, answer, strict=True)]


def trl_in_any_order(completions, answer, prompts):
    return exact(prompts, completions, answer)


class Scores:
    def score(self, prompts, responses, answer):
        return torch.tensor(exact(prompts, responses, answer))


class Network(nn.Module):
    def score(self, prompts, responses, **columns):
        return torch.tensor(exact(prompts, responses, columns["answer"]))


class Plain:
    def score(self, prompts, responses):
        return torch.tensor(exact(prompts, responses, ["3", "4"]))


@pytest.mark.parametrize(
    "reward", [exact, trl, trl_alone, trl_in_any_order, Scores(), Network(), Plain()]
)
def test_a_column_is_given_to_who_names_it(reward):
    found = score_with(as_reward(reward), ASKED, TEXTS, columns_of(ROWS))
    assert found.tolist() == [1.0, 0.0]


def test_all_are_given_to_who_takes_all_with_none_for_gaps():
    seen = {}

    def reward(prompts, responses, **columns):
        seen.update(columns)
        return [0.0] * len(responses)

    FunctionReward(reward).score(ASKED, TEXTS, **columns_of(ROWS))
    assert seen == {"answer": ["3", "4"], "level": [1, None], "reference": [None, "four"]}
    assert repeated(seen, 2)["answer"] == ["3", "3", "4", "4"]


def test_an_argument_with_a_default_is_given_where_there_is_a_column():
    def reward(prompts, responses, level=None, unknown=2.0):
        return [unknown + (level is not None)] * len(responses)

    assert asks_of(FunctionReward(reward)).optional == {"level", "unknown"}
    assert FunctionReward(reward).score(ASKED, TEXTS, **columns_of(ROWS)).tolist() == [3.0, 3.0]
    assert FunctionReward(reward).score(ASKED, TEXTS).tolist() == [2.0, 2.0]
    bound = FunctionReward(partial(reward, level=1))  # a setting, which no column replaces
    assert bound.asks.optional == {"unknown"}
    check_columns(bound, [Prompt("p", "g")])


def test_what_a_row_lacks_is_refused_with_what_it_has():
    said = (
        r"expected the columns answer, which exact asks for, in row 1 of the prompts \(group 'b'\), "
        "got level, reference; add them to the data, or give the argument a default"
    )
    lacking = [ROWS[0], Prompt("2+2", "b", "four", {"level": 2})]
    with pytest.raises(ValueError, match=said):
        check_columns(as_reward(exact), lacking)
    with pytest.raises(
        ValueError, match="which Scores asks for, in what is scored, got none beside"
    ):
        score_with(Scores(), ASKED, TEXTS)
    check_columns(as_reward(exact), ROWS)
    check_columns(Plain(), lacking)

    def closeness(prompts, responses, reference):
        return [0.0] * len(responses)

    with pytest.raises(ValueError, match="columns reference, which closeness asks for, in row 0"):
        check_columns(as_reward(closeness), ROWS)
    assert as_reward(closeness).score(ASKED[1:], ["x"], **columns_of(ROWS[1:])).tolist() == [0.0]


def test_whoever_cannot_say_its_arguments_is_given_texts():
    assert asks_of(FunctionReward(max)).required == frozenset()


def test_the_best_of_several_and_a_judge_go_by_the_columns():
    def answers(prompts, responses, answer):
        return [float(text == right) for text, right in zip(responses, answer, strict=True)]

    reward = as_reward(answers)
    made = Responses([["0", "3"], ["4", "0"]], [[False, True]] * 2, [[[0], [1]]] * 2)
    assert choose_best(ROWS, made, reward, 2).texts == [["3"], ["4"]]
    (judged,) = RewardJudge(reward, "answers", ROWS).label([Preference("1+2", "0", "3", "a")])
    assert judged.p_first < 0.3
