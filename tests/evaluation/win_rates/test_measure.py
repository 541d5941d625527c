"""The matrix of win rates on responses whose winners are known."""

import csv
import math

import pytest

from rlaif_pl.evaluation.judges import RewardJudge
from rlaif_pl.evaluation.win_rate import compare
from rlaif_pl.evaluation.win_rates import report as matrix_report
from rlaif_pl.evaluation.win_rates.measure import (
    PolicyColumns,
    complement,
    measure_matrix,
)
from rlaif_pl.statistics import Estimator, Interval
from rlaif_pl.types import Preference, Prompt

PROMPTS = [Prompt(f"prompt {n}", f"p{n}", "reference") for n in range(4)]
SOME = Interval(1.0, 0.5, 1.5, 4)


def columns(*texts, **more):
    return PolicyColumns([[text] for text in texts], SOME, SOME, 0.0, **more)


@pytest.fixture
def policies():
    """Lengths by prompt: b against a wins, loses, ties, wins; c is always longest."""
    return {
        "a": columns("aa", "aaa", "same", "a"),
        "b": columns("bbb", "b", "same", "bb"),
        "c": columns("cccccc", "cccccc", "cccccc", "cccccc", kl=SOME),
    }


@pytest.fixture
def measured(policies, length_labeler, length_reward):
    judges = {"length": length_labeler, "reward": RewardJudge(length_reward, "reward")}
    return measure_matrix(PROMPTS, policies, judges, {"reward": ["c"]}, estimator=Estimator(50))


def test_win_rates_by_hand(measured):
    assert measured.win_rate("length", "a", "b").value == pytest.approx((0 + 1 + 0.5 + 0) / 4)
    assert measured.win_rate("length", "c", "a").value == 1.0
    assert measured.mean_win_rate("length", "c") == 1.0
    assert measured.mean_win_rate("length", "b") == pytest.approx((0.625 + 0.0) / 2)


@pytest.mark.parametrize("at_equal_length", [False, True])
def test_both_directions_add_up_to_one_ties_included(measured, at_equal_length):
    for judge in ("length", "reward"):
        for a, b in (("a", "b"), ("a", "c"), ("b", "c")):
            there = measured.win_rate(judge, a, b, at_equal_length)
            back = measured.win_rate(judge, b, a, at_equal_length)
            assert there.value + back.value == pytest.approx(1.0)
            assert there.low + back.high == pytest.approx(1.0)


def test_a_reward_judges_like_the_labeler_of_its_kind(measured):
    for a, b in (("a", "b"), ("b", "c")):
        by_reward = measured.win_rate("reward", a, b)
        assert by_reward.value == measured.win_rate("length", a, b).value


def test_comparisons_by_a_teacher_are_marked(measured):
    taught = {(c.judge, c.a, c.b): c.is_taught for c in measured.cells}
    assert taught["reward", "a", "c"]
    assert not taught["reward", "a", "b"]
    assert not taught["length", "a", "c"]


def test_each_response_is_scored_once(policies, length_labeler):
    measure_matrix(PROMPTS, policies, {"length": length_labeler}, {}, estimator=Estimator(20))
    assert len(length_labeler.scored) == len(set(length_labeler.scored))
    assert len(length_labeler.scored) == 11  # 12 less the text that two policies share


def test_scores_that_are_known_are_not_asked_for_again(length_labeler):
    scores = {("p", "c"): 9.0}
    compare(["p"], [["ab"]], [["c"]], length_labeler, scores=scores)
    rate = compare(["p", "q"], [["ab"], ["ab"]], [["c"], ["c"]], length_labeler, scores=scores)
    assert length_labeler.scored == [("p", "ab"), ("q", "ab"), ("q", "c")]
    assert rate.raw.value == 0.5  # what was known of "c" counts
    assert scores["q", "ab"] == 2.0


def test_a_reward_labels_by_the_difference(length_reward):
    pair = Preference("p", "x" * 10, "", "g")
    labeled = RewardJudge(length_reward, "r").label([pair])[0]
    assert labeled.p_first == pytest.approx(1 / (1 + math.exp(-1)))


def test_complement_swaps_the_limits():
    assert complement(Interval(0.7, 0.6, 0.9, 3)) == Interval(
        pytest.approx(0.3), pytest.approx(0.1), pytest.approx(0.4), 3
    )


@pytest.mark.parametrize(
    ("names", "taught"),
    [(["a"], {}), (["a", "b"], {"nobody": ["a"]}), (["a", "b"], {"length": ["z"]})],
)
def test_what_cannot_be_compared_is_refused(policies, length_labeler, names, taught):
    chosen = {name: policies[name] for name in names}
    with pytest.raises(ValueError, match="expected"):
        measure_matrix(PROMPTS, chosen, {"length": length_labeler}, taught, estimator=Estimator(20))


def test_files(measured, tmp_path):
    matrix_report.write(measured, PROMPTS, tmp_path)
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "judge: reward (taught c)" in page
    assert matrix_report.TAUGHT in page
    assert (tmp_path / "win_matrix.png").read_bytes()[:4] == b"\x89PNG"
    with (tmp_path / "matrix.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 6  # judges, ordered pairs
    by_pair = {(r["judge"], r["policy"], r["against"]): float(r["win_rate"]) for r in rows}
    assert by_pair["length", "a", "b"] + by_pair["length", "b", "a"] == pytest.approx(1.0)
    metrics = matrix_report.to_metrics(measured)
    assert metrics["matrix/length/a_vs_b"] == pytest.approx(0.375)
    assert metrics["policy/c/kl"] == 1.0
