"""Win rates: by hand, length control, failures, and how often a judge is asked."""

import pytest

from rlaif_pl.evaluation.win_rate import compare, text_measures
from rlaif_pl.text import judge_name

PROMPTS = ["one two three four five six", "p2"]


def test_all_comparisons_of_a_prompt_count_and_prompts_weigh_the_same(length_labeler):
    a = [["aaaa", "aa"], ["a"]]
    b = [["bbb", "bb"], ["bb"]]
    # Prompt 1: 4>3 win, 4>2 win, 2<3 loss, 2=2 tie: 2.5 / 4. Prompt 2: loss. Mean 0.3125.
    rate = compare(PROMPTS, a, b, length_labeler)
    assert rate.raw.value == pytest.approx(0.3125)
    assert (rate.raw.n, rate.comparisons, rate.ties) == (2, 5, 1)
    assert rate.judge == "length-labeler"


def test_swapping_the_systems_gives_the_complement(length_labeler):
    a, b = [["aaaa", "aa"], ["a"]], [["bbb", "bb"], ["bb"]]
    rate, swapped = compare(PROMPTS, a, b, length_labeler), compare(PROMPTS, b, a, length_labeler)
    assert rate.raw.value + swapped.raw.value == pytest.approx(1)


def test_a_pointwise_judge_scores_each_distinct_response_once(length_labeler):
    compare(["p"], [["aa", "bbb", "aa"]], [["cccc", "aa"]], length_labeler)
    assert sorted(length_labeler.scored) == [("p", "aa"), ("p", "bbb"), ("p", "cccc")]


def test_a_pairwise_judge_is_asked_once_a_distinct_comparison(answering):
    judge = answering([0.9, 0.5, 0.2])
    rate = compare(["p"], [["x", "x", "y"]], [["z", "y"]], judge)
    asked = [(pair.first, pair.second) for pair in judge.seen]
    assert asked == [("x", "z"), ("x", "y"), ("y", "z")]  # x-z and x-y count twice, y-y ties
    assert rate.raw.value == pytest.approx((2 * 1 + 2 * 0.5 + 0 + 0.5) / 6)


def test_equal_texts_tie_without_being_judged(answering):
    judge = answering([])
    rate = compare(["p"], [["same.."]], [["same."]], judge)
    assert (rate.raw.value, rate.ties, judge.seen) == (0.5, 1, [])


def test_failures_are_left_out_and_counted(answering):
    judge = answering([0.9, "malformed", "malformed"])
    rate = compare(["p", "q"], [["x", "y"], ["z"]], [["w"], ["v"]], judge)
    assert (rate.raw.value, rate.comparisons, rate.prompts_without_verdict) == (1, 1, 1)
    assert rate.failures == {"malformed": 2}
    assert rate.to_metrics("policy_vs_sft")["winrate/policy_vs_sft_failures"] == 2


def test_scores_that_are_not_finite_are_failures(length_labeler):
    length_labeler.score = lambda _, responses: [float(t) for t in responses]
    rate = compare(["p", "q"], [["nan"], ["2"]], [["1"], ["1"]], length_labeler)
    assert (rate.raw.value, rate.failures) == (1, {"no_score": 1})


def test_a_win_by_length_alone_goes_at_equal_length(length_labeler):
    # A is longer in three prompts of four and wins exactly those.
    sizes = [(12, 8), (11, 9), (13, 9), (8, 10)] * 10
    a, b = [["a" * x] for x, _ in sizes], [["b" * y] for _, y in sizes]
    rate = compare([f"p{i}" for i in range(40)], a, b, length_labeler)
    assert rate.raw.value == 0.75
    assert 0.2 < rate.length_controlled.value < 0.8
    assert rate.length_controlled.high - rate.length_controlled.low > 0


def test_lengths_and_copying_stand_beside_the_rate(length_labeler):
    # "one two three four five" copies both its 4-grams; "one two three four nine" one of two.
    a = [["one two three four five", "one two three four nine"], ["short"]]
    rate = compare(PROMPTS, a, [["x y"], ["z"]], length_labeler)
    assert rate.a.words == pytest.approx((5 + 1) / 2)
    assert rate.a.copied_4grams == pytest.approx((0.75 + 0) / 2)
    assert rate.length_ratio == pytest.approx(3 / 1.5)
    assert text_measures(["p"], [["ab", "abcd"]]).chars == 3


def test_rows_of_one_group_are_drawn_together(length_labeler):
    prompts, groups = [f"p{i}" for i in range(40)], [f"g{i // 4}" for i in range(40)]
    wins = [i % 8 < 4 for i in range(40)]  # the same for all four prompts of a group
    a, b = [["aa"] if won else ["a"] for won in wins], [["b"] if won else ["bb"] for won in wins]
    alone = compare(prompts, a, b, length_labeler).raw
    together = compare(prompts, a, b, length_labeler, groups).raw
    # 10 independent units in place of 40: about twice as wide.
    ratio = (together.high - together.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(2, abs=0.4)


def test_metric_names(length_labeler):
    metrics = compare(PROMPTS, [["aa"], ["a"]], [["b"], ["bb"]], length_labeler).to_metrics("x")
    names = {"winrate/x", "winrate/x_low", "winrate/x_high", "winrate/x_length_controlled"}
    assert names | {"winrate/x_length_ratio", "winrate/x_n"} <= set(metrics)


def test_bad_input_is_refused(length_labeler, answering):
    with pytest.raises(ValueError, match="1 prompts, 2 and 1"):
        compare(["p"], [["a"], ["b"]], [["c"]], length_labeler)
    with pytest.raises(ValueError, match="empty list"):
        compare(["p"], [[]], [["c"]], length_labeler)
    with pytest.raises(ValueError, match="group per prompt"):
        compare(["p"], [["a"]], [["c"]], length_labeler, ["g", "h"])
    with pytest.raises(ValueError, match="malformed 1"):
        compare(["p"], [["a"]], [["c"]], answering(["malformed"]))


@pytest.mark.parametrize(
    ("fingerprint", "name"),
    [
        (
            "likelihood;llama@95c6e291f8214a47a75442bfb684f1a4:layers=all:bfloat16;max_tokens=4096;"
            "thoughts=closed;likelihood-1+0.3*reconstruction-1;temperature=0.5",
            "likelihood, llama@95c6e291",
        ),
        (
            "pairwise;endpoint:qwen@unnamed,api=chat,top_logprobs=20;v3",
            "pairwise, endpoint:qwen@unnamed",
        ),
        ("ensemble;[likelihood;a@1;x] & [pairwise;b@1;y];v1;temperature=1.0", "ensemble"),
        ("embedding:minilm:e71c17155e6239ea:256:910b0a423e5cc93b", "embedding:minilm:e71c1715"),
        ("length-labeler", "length-labeler"),
    ],
)
def test_a_judge_is_named_by_strategy_and_model_in_tables(fingerprint: str, name: str) -> None:
    assert judge_name(fingerprint) == name


def test_a_label_that_is_no_number_is_a_judgment_that_could_not_be_had(answering):
    rate = compare(PROMPTS, [["x"], ["x"]], [["y"], ["y"]], answering([1.0, float("nan")]))
    assert (rate.raw.value, rate.failures, rate.prompts_without_verdict) == (1, {"nonfinite": 1}, 1)
