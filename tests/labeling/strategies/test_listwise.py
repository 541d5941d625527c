"""Rankings of several responses in one call, worked by hand."""

import re
from dataclasses import replace

import pytest

from rlaif_pl.labeling import ListwiseLabeler, build_labeler
from rlaif_pl.labeling.calls import Response
from rlaif_pl.labeling.strategies.listwise import lists_of, ranking_of
from rlaif_pl.types import Preference

PAIRS = [
    Preference("P", "aa", "bbbb", "g"),
    Preference("P", "ccc", "aa", "g"),
    Preference("Q", "x", "yy", "h"),
    Preference("P", "bbbb", "ccc", "g"),
]


class Ranker:
    """Ranks longer responses ahead, or the one in front where told; 7 tokens and 0.03 USD a call."""

    fingerprint = "ranker"

    def __init__(self, by_place=False, answer=None):
        self.by_place, self.answer_with = by_place, answer
        self.shown = []

    def answer(self, calls, done):
        for place, call in enumerate(calls):
            listed = re.findall(r"^\[(\d+)\] (.*)$", call.question.text, re.MULTILINE)
            self.shown.append([text for _, text in listed])
            if not self.by_place:
                listed.sort(key=lambda row: -len(row[1]))
            text = " > ".join(f"[{number}]" for number, _ in listed)
            done(place, Response(text=self.answer_with or text, read=5, written=2, cost_usd=0.03))


def test_pairs_of_a_prompt_share_its_rankings():
    ranker = Ranker()
    labels = ListwiseLabeler(ranker).label(PAIRS)
    assert [label.p_first for label in labels] == [0.0, 1.0, 0.0, 1.0]
    assert len(ranker.shown) == 4  # two prompts, each in two orders
    assert ranker.shown[1] == ranker.shown[0][::-1]
    assert sorted(ranker.shown[0]) == ["aa", "bbbb", "ccc"]
    assert sum(label.provenance.tokens for label in labels) == 4 * 7
    assert sum(label.provenance.cost_usd for label in labels) == pytest.approx(0.12)
    assert all(label.provenance.strategy == "listwise" for label in labels)


def test_a_judge_of_places_favors_nobody():
    labels = ListwiseLabeler(Ranker(by_place=True)).label(PAIRS)
    assert [label.p_first for label in labels] == [0.5] * 4
    assert [label.provenance.position_gap for label in labels] == [1.0] * 4


def test_swapped_pairs_and_another_order_of_pairs_change_nothing():
    labeler = ListwiseLabeler(Ranker(by_place=True), shuffles=3)
    swapped = [replace(pair, first=pair.second, second=pair.first) for pair in PAIRS[::-1]]
    for one, other in zip(labeler.label(PAIRS), labeler.label(swapped)[::-1], strict=True):
        assert one.p_first == pytest.approx(1 - other.p_first)


@pytest.mark.parametrize("text", ["[1] > [2]", "the first", "[1] > [1] > [2]", "1 2 4"])
def test_a_ranking_that_leaves_one_out_labels_nothing(text):
    labels = ListwiseLabeler(Ranker(answer=text)).label(PAIRS[:2])
    assert [label.provenance.failure for label in labels] == ["malformed"] * 2
    assert [label.p_first for label in labels] == [None] * 2


@pytest.mark.parametrize(
    ("text", "ranking"),
    [
        (" [2] > [1] > [3]", [1, 0, 2]),
        ("2, 1, 3\nbecause 2 is short", [1, 0, 2]),
        ("3>2>1", [2, 1, 0]),
        ("0 1 2", None),
        ("1. [3]\n2. [1]\n3. [2]", [2, 0, 1]),
        ("1. Response 3\n2. Response 1\n3. Response 2", [2, 0, 1]),
        ("1) 3\n2) 1\n3) 2", [2, 0, 1]),
        ("2. It is short.\n1. It is clear.\n3. It is long.", [1, 0, 2]),
        ("2\n1\n3", [1, 0, 2]),
        ("Here is the ranking of the 3 responses: [2] > [1] > [3]", [1, 0, 2]),
        ("The ranking of the 3 given responses: 2 > 1 > 3", [1, 0, 2]),
        ("[2] > 1 > 3", [1, 0, 2]),
        ("2. 1. 3.", [1, 0, 2]),
        ("2) 1) 3)", [1, 0, 2]),
        ("2. > 1. > 3.", [1, 0, 2]),
        ("Of the 3 responses, the 3 best answers:\n1. 2\n2. 1\n3. 3", [1, 0, 2]),
        ("2, 1 and 3 responses later", [1, 0, 2]),
        ("2, 1\n3 responses", [1, 0, 2]),
    ],
)
def test_rankings_are_read_by_their_numbers(text, ranking):
    assert ranking_of(text, 3) == ranking


@pytest.mark.parametrize(
    ("text", "ranking"),
    [
        ("From worst to best: [3] < [1] < [2]", None),
        ("The worst first: 3, 1, 2", None),
        ("[2] < [1] < [3]", None),
        ("[3] is worst; [1] is best, then [2]", None),
        ("[1] = [2] > [3]", None),
        ("[1] and [2] are equal, then [3]", None),
        ("From best to worst: [3] > [1] > [2]", [2, 0, 1]),
        ("From best to worst, according to accuracy: [3] > [1] > [2]", [2, 0, 1]),
        ("(1 = best, 3 = worst): [3] > [1] > [2]", [2, 0, 1]),
        ("[3] -> [1] => [2]. The worst is [2] = too long", [2, 0, 1]),
        ("<answer>[3], [1], [2]</answer>", [2, 0, 1]),
    ],
)
def test_another_order_than_the_best_first_is_no_ranking(text, ranking):
    assert ranking_of(text, 3) == ranking


def test_the_number_of_two_responses_is_no_name():
    assert ranking_of("Of the 2 responses: [1] > [2]", 2) == [0, 1]
    assert ranking_of("1. [2]\n2. [1]", 2) == [1, 0]
    assert ranking_of("2. [1]", 2) == [1, 0]


def test_long_lists_are_split():
    pairs = [Preference("P", f"a{n}", f"b{n}", "g") for n in range(5)]
    lists = lists_of(pairs, 4)
    assert [len(each.responses) for each in lists] == [4, 4, 2]
    assert [each.pairs for each in lists] == [[0, 1], [2, 3], [4]]


def test_settings_out_of_range_are_refused():
    for wrong in ({"max_responses": 1}, {"shuffles": 0}, {"max_answer_tokens": 0}):
        with pytest.raises(ValueError, match="expected max_responses"):
            build_labeler("listwise", backend=Ranker(), **wrong)
