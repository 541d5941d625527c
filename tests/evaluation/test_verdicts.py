"""The file of all verdicts: written by evaluations, found again whichever response stood first."""

import pytest

from rlaif_pl.evaluation.pairs import comparison_key, read_verdicts
from rlaif_pl.evaluation.policy import PolicySamples, evaluate_policy
from rlaif_pl.statistics import Estimator
from rlaif_pl.types import Prompt


def test_a_policy_report_leaves_the_verdicts_of_every_judge(
    tmp_path, length_reward, length_labeler
):
    samples = PolicySamples(
        [Prompt("secret prompt", "1", "reference"), Prompt("another", "2", "r")],
        [["short..."], ["same"]],
        [["much longer"], ["same"]],
    )
    report = evaluate_policy(
        samples, length_reward, length_labeler, length_labeler, estimator=Estimator(20)
    )
    report.write(tmp_path, show_text=False)
    judges = read_verdicts(tmp_path / "verdicts.jsonl")
    assert set(judges) == {"labeler", "embedding", "rouge_l", "reward"}
    # judges read a response with one full stop of its three
    assert judges["labeler"].win("secret prompt", "much longer", "short.") == 1
    assert judges["labeler"].win("secret prompt", "short.", "much longer") == 0
    assert judges["labeler"].win("another", "same", "r") == 1
    assert judges["reward"].win("secret prompt", "short.", "much longer") == 0
    assert judges["reward"].win("secret prompt", "other", "texts") is None
    assert judges["labeler"].taught == judges["reward"].taught == ("policy",)
    assert judges["embedding"].taught == ()
    text = (tmp_path / "verdicts.jsonl").read_text()
    assert "secret" not in text
    assert "longer" not in text


def test_the_parts_of_a_key_stay_apart():
    assert comparison_key("a", "bc", "d") != comparison_key("ab", "c", "d")
    assert comparison_key("a", "b", "c") != comparison_key("a", "c", "b")


@pytest.mark.parametrize("line", ['{"judge": "j", "win": 1}', '{"judge": "j", "key": "k"}'])
def test_a_line_that_is_no_verdict_is_named(line, tmp_path):
    (tmp_path / "verdicts.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"verdicts.jsonl:1: expected judge, key and a win"):
        read_verdicts(tmp_path / "verdicts.jsonl")
