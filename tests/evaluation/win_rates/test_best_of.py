"""The best of n responses, chosen by a reward."""

import pytest

from rlaif_pl.evaluation.win_rates.measure import BestOf, MatrixJudges, check_policies, choose_best
from rlaif_pl.rl.generate import Responses
from rlaif_pl.types import Prompt


def test_of_each_n_the_highest_and_of_equals_the_first(length_reward):
    prompts = [Prompt("one", "1"), Prompt("two", "2")]
    texts = [["a", "abc", "ab", "abcd"], ["xy", "zw", "u", "v"]]
    cut = [[False, True, False, True], [True, False, True, False]]
    tokens = [[[n] for n in range(4)], [[n] for n in range(4, 8)]]
    best = choose_best(prompts, Responses(texts, cut, tokens), length_reward, 2)
    assert best.texts == [["abc", "abcd"], ["xy", "u"]]
    assert best.unfinished == [[True, True], [True, True]]
    assert best.tokens == [[[1], [3]], [[4], [6]]]


def test_a_name_that_is_taken_and_a_choice_among_one_are_refused():
    with pytest.raises(ValueError, match="another name"):
        check_policies(["sft"], {"sft": BestOf("sft", "ours")}, ["ours"])
    with pytest.raises(ValueError, match="at least 2"):
        BestOf("sft", "ours", 1)


@pytest.mark.parametrize("name", ["prompt", "group", "reference", "response"])
def test_a_policy_does_not_replace_a_column_of_its_samples(name):
    with pytest.raises(ValueError, match=f"another name of a policy than {name}"):
        check_policies(["sft", name], {}, [])
    with pytest.raises(ValueError, match=f"another name of a policy than {name}"):
        check_policies(["sft"], {name: BestOf("sft", "ours")}, ["ours"])


def test_judges_have_names_of_their_own():
    with pytest.raises(ValueError, match="two called rm"):
        MatrixJudges(labelers={"rm": "likelihood"}, rewards={"rm": None})
    with pytest.raises(ValueError, match="two called rouge_l"):
        MatrixJudges(rewards={"rouge_l": None})
    with pytest.raises(ValueError, match="two called embedding"):
        MatrixJudges(labelers={"embedding": "likelihood"})
    assert MatrixJudges(labelers={"embedding": "likelihood"}, independent=False).labelers
