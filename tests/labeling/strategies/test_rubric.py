"""Scores by criteria, worked by hand; criteria of single prompts, references, and refusals."""

import json
import math
import warnings

import pytest
import torch

from rlaif_pl.labeling import LabelerReward, RubricLabeler, build_labeler
from rlaif_pl.labeling.backends.local import LocalBackend
from rlaif_pl.labeling.calls import Response
from rlaif_pl.labeling.outcome import VerdictOptions, sigmoid
from rlaif_pl.labeling.strategies.rubric import Criterion, load_criteria, load_rows
from rlaif_pl.types import Preference

PAIR = Preference("A long day.", "good short", "good", "g")


class Checker:
    """Says Yes with 0.9 where the criterion's last word stands in the response, else with 0.2."""

    fingerprint = "checker"

    def __init__(self, failing=""):
        self.failing = failing
        self.questions = []

    def answer(self, calls, done):
        for place, call in enumerate(calls):
            text = call.question.text
            self.questions.append(call.question)
            response = text.split("RESPONSE: ")[1].split("\n")[0]
            word = text.split("CRITERION: ")[1].strip().split()[-1]
            if self.failing and word == self.failing:
                done(place, Response(read=5, failure="too_long"))
                continue
            yes = 0.9 if word in response else 0.2
            # half of the probability lies elsewhere, which changes no score
            logs = (math.log(yes / 2), math.log((1 - yes) / 2))
            done(place, Response(logprobs=logs, read=5, written=1, cost_usd=0.01))


@pytest.fixture
def criteria(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text('- {description: "is good", weight: 3}\n- {description: "is short"}\n')
    return str(path)


def test_a_score_is_the_weighted_mean(criteria):
    labeler = RubricLabeler(Checker(), criteria=criteria, temperature=0.5)
    # of the second, the criterion of weight 3 has 0.9 and that of weight 1 has 0.2
    assert labeler.score(["A long day."] * 2, ["good short", "good"]) == pytest.approx([0.9, 0.725])
    assert labeler.met(["A"], ["good"]) == [
        {"is good": pytest.approx(0.9), "is short": pytest.approx(0.2)}
    ]
    (label,) = labeler.label([PAIR])
    assert label.p_first == pytest.approx(sigmoid((0.9 - 0.725) / 0.5))
    found = label.provenance
    assert found.margin == pytest.approx(0.175)
    assert found.off_option_mass == pytest.approx(0.5)
    assert (found.strategy, found.tokens, found.written) == ("rubric", 4 * 6, 4)
    assert found.cost_usd == pytest.approx(0.04)


def test_questions_about_a_response_differ_in_their_end_alone(criteria):
    checker = Checker()
    RubricLabeler(checker, criteria=criteria).label([PAIR])
    assert len(checker.questions) == 4
    for one, other in (checker.questions[:2], checker.questions[2:]):
        shared, own = one.text.split("CRITERION: ")
        assert other.text.startswith(shared)
        assert shared.rstrip().endswith(("RESPONSE: good short", "RESPONSE: good"))
        assert own.startswith("is")


def test_a_criterion_without_an_answer_leaves_no_score(criteria):
    labeler = RubricLabeler(Checker(failing="short"), criteria=criteria)
    (score,) = labeler.details(["A"], ["good"])
    assert (math.isnan(score.margin), score.failure) == (True, "too_long")
    (label,) = labeler.label([PAIR])
    assert (label.p_first, label.provenance.failure) == (None, "too_long")


def test_prompts_have_criteria_and_references_of_their_own(criteria, tmp_path):
    rows = tmp_path / "rows.jsonl"
    own = [{"description": "is funny", "weight": 0.5}]
    lines = [
        {"prompt": "A", "criteria": own, "reference": "a funny thing", "group": "x"},
        {"prompt": "B", "reference": None},
    ]
    rows.write_text("\n".join(map(json.dumps, lines)))
    checker = Checker()
    labeler = RubricLabeler(checker, criteria=criteria, rows=str(rows))
    assert labeler.score(["A", "B", "C"], ["funny", "good short", "good"]) == pytest.approx(
        [0.9, 0.9, 0.725]
    )
    assert len(checker.questions) == 5
    shown = [question for question in checker.questions if "a funny thing" in question.text]
    assert shown == checker.questions[:1]
    assert shown[0].text.index("a funny thing") < shown[0].text.index("CRITERION")
    assert labeler.fingerprint != RubricLabeler(checker, criteria=criteria).fingerprint


def test_white_space_around_a_prompt_parts_it_from_no_row(criteria, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": " A\n", "criteria": ["is funny"], "reference": "a joke"}))
    checker = Checker()
    labeler = RubricLabeler(checker, criteria=criteria, rows=str(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert labeler.score(["A", "A "], ["funny", "dull"]) == pytest.approx([0.9, 0.2])
    assert all("a joke" in question.text for question in checker.questions)
    rows.write_text('{"prompt": "A"}\n{"prompt": "A "}\n')
    with pytest.raises(ValueError, match="each prompt once"):
        load_rows(str(rows))


def test_prompts_without_a_row_are_warned_of_once(criteria, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "A", "criteria": ["is funny"]}\n')
    labeler = RubricLabeler(Checker(), criteria=criteria, rows=str(rows))
    with pytest.warns(UserWarning, match="got none for 2 of 3"):
        labeler.score(["A", "B", "C", "C"], ["good"] * 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labeler.score(["D"], ["good"])
        RubricLabeler(Checker(), criteria=criteria).score(["D"], ["good"])  # has no rows at all


def test_a_rubric_is_a_reward(criteria):
    reward = LabelerReward(RubricLabeler(Checker(), criteria=criteria), scale=2.0, shift=0.5)
    scores = reward.score(["A", "A"], ["good short", "good"])
    torch.testing.assert_close(scores, torch.tensor([0.8, 0.45]))
    assert reward.to_metrics("r")["r/run_calls"] == 4


@pytest.mark.parametrize("task", ["summarization", "helpful", "harmless"])
def test_each_task_has_criteria(task):
    labeler = build_labeler("rubric", backend=Checker(), task=task)
    assert len(labeler.criteria) >= 4
    assert f"criteria-{task}-1" in labeler.prompt_version


def test_a_local_model_reads_criteria(folders, pairs):
    labeler = RubricLabeler(
        LocalBackend(folders["llama"]), verdict=VerdictOptions(min_option_mass=0)
    )
    labels = labeler.label(pairs)
    assert all(0 < label.p_first < 1 for label in labels)
    swapped = [Preference(p.prompt, p.second, p.first, p.group) for p in pairs]
    for label, other in zip(labels, labeler.label(swapped), strict=True):
        assert label.p_first == pytest.approx(1 - other.p_first, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: b", "list of criteria"),
        ("[]", "list of criteria"),
        ("- {description: x, weight: 0}", "weights above 0.*word a fault"),
        ("- {description: x, weight: true}", "weights above 0"),
        ("- {description: x, size: 1}", "description: TEXT"),
        ("- {weight: 1}", "description: TEXT"),
        ("- x\n- x", "different criteria"),
    ],
)
def test_files_that_hold_no_criteria_are_refused(tmp_path, text, said):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        load_criteria(str(tmp_path / "c.yaml"))


def test_criteria_may_be_json_or_sentences_alone(tmp_path):
    (tmp_path / "c.json").write_text('["is good", {"description": "is short", "weight": 2}]')
    found, _ = load_criteria(str(tmp_path / "c.json"))
    assert found == (Criterion("is good"), Criterion("is short", 2.0))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{"criteria": ["x"]}], "expected prompt"),
        ([{"prompt": "A"}, {"prompt": "A"}], "each prompt once"),
        ([{"prompt": "A", "criteria": []}], r"rows.jsonl.*list of criteria"),
        ([{"prompt": "A", "reference": 3}], "reference, if any"),
    ],
)
def test_rows_that_say_something_else_are_refused(tmp_path, lines, said):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=said):
        load_rows(str(path))
