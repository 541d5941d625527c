"""Ranks to win rates, agreement and preferences, by hand."""

import csv
import math

import pytest

from rlaif_pl.data.preferences import write_preferences
from rlaif_pl.evaluation.human.findings import preferences_of, reading_of
from rlaif_pl.evaluation.human.records import Rating
from rlaif_pl.evaluation.human.tables import results_of, write_ratings
from rlaif_pl.evaluation.human.tasks import Item, Ranked, RatingTask, gather
from rlaif_pl.evaluation.pairs import JudgeVerdicts, comparison_key
from rlaif_pl.reporting.files import read_results
from rlaif_pl.statistics import Estimator
from rlaif_pl.training.datamodule import PreferenceDataModule

# Of t1 three people's ranks of a, b, c; of t2 one's, and one who could not judge.
RATINGS = [
    Rating("1", "Ann", "t1", (0, 1, 2), (1, 2, 3), seconds=10, created=1),
    Rating("2", "Bo", "t1", (1, 0, 2), (1, 3, 2), seconds=20, created=2),
    Rating("3", "Cy", "t1", (2, 1, 0), (2, 1, 3), seconds=30, created=3),
    Rating("4", "ann", "t2", (1, 2, 0), (2, 1, 3), seconds=50, created=4),
    Rating("5", "Bo", "t2", (0, 1, 2), None, "gibberish", 3, 5),
]


def key(task, first, second):
    return comparison_key(f"prompt {task}", first, second)


@pytest.fixture
def judges():
    """One that has a verdict on a and b only, and one that always prefers c, then b."""
    texts = {"a": "aaaa", "b": "bb", "c": "cccccc"}
    wins = {
        key(task, texts[x], texts[y]): 0.0 for task in ("t1", "t2") for x, y in ("ab", "bc", "ac")
    }
    some = {key("t1", "aaaa", "bb"): 1.0, key("t2", "bb", "aaaa"): 1.0}
    return {"some": JudgeVerdicts((), some), "late": JudgeVerdicts(("c",), wins)}


@pytest.fixture
def reading(tasks, judges):
    estimator = Estimator(draws=200)
    return reading_of(tasks, RATINGS, "abc", judges, undone={"person": 2}, estimator=estimator)


@pytest.fixture
def found(reading):
    (people,) = reading.findings
    return people


def test_win_rates_of_people(found):
    # a over b: 2 of 3 on t1, 0 on t2; a over c: always; b over c: 2 of 3, 1.
    assert found.matrix.win_rate("people", "a", "b").value == pytest.approx(1 / 3)
    assert found.matrix.win_rate("people", "b", "a").value == pytest.approx(2 / 3)
    assert found.matrix.win_rate("people", "a", "c").value == 1
    assert found.matrix.win_rate("people", "b", "c").value == pytest.approx(5 / 6)
    cell = found.matrix.cells[0]
    assert (cell.rate.comparisons, cell.rate.failures) == (4, {"cannot judge": 1})
    rank, best = found.ranks["a"]
    assert rank.value == pytest.approx((1 + 1 + 2 + 2) / 4)
    assert best.value == 0.5


def test_win_rates_of_a_judge_on_the_same_responses(found):
    assert list(found.matrix.judges) == ["people", "late"]  # "some" did not judge all pairs
    assert found.matrix.win_rate("late", "a", "b").value == 0
    assert [cell.is_taught for cell in found.matrix.cells if cell.judge == "late"] == [
        False,
        True,
        True,
    ]


def test_agreement_of_people(found):
    people = found.people
    assert (people.w.value, people.w.n) == (pytest.approx(4 / 9), 1)
    assert people.chance == pytest.approx(1 / 3)
    assert people.correlation.value == pytest.approx(1 / 6)
    # two of the three pairs of people split on a-b and on b-c
    assert people.agreement.value == pytest.approx((1 / 3 + 1 + 1 / 3) / 3)


def test_agreement_of_judges_with_people(found):
    some, late, length = found.judges
    assert (some.judge, some.pairs) == ("some", 2)
    assert some.majority.value == 1
    assert some.person.value == pytest.approx((2 / 3 + 1) / 2)
    # "late" is right about b over a on t2 alone, of six pairs
    assert late.majority.value == pytest.approx(1 / 6)
    assert late.person.value == pytest.approx((1 / 3 + 0 + 1 / 3 + 1 + 0 + 0) / 6)
    # the longer one: a over b is right on t1, nothing else
    assert length.majority.value == pytest.approx(1 / 6)


def test_what_each_person_did(found):
    ann, bo, _ = found.raters.values()
    assert (ann.name, ann.ranked, ann.skipped, ann.median_seconds) == ("person 1", 2, 0, 30)
    assert ann.minutes == 1
    assert (ann.correlation, ann.shared) == (pytest.approx(0.5), 2)  # 1/2 with each
    assert (bo.skipped, bo.correlation) == (1, pytest.approx(0))
    # the top of the page: a was best for Ann, b not for Bo, c not for Cy, b was for Ann on t2
    assert found.top[0].value == 0.5
    assert found.top[1] == pytest.approx(1 / 3)


def test_a_text_of_two_policies_is_a_tie():
    task = RatingTask("t", "p", "g", (Item("x", ("a", "b")), Item("y", ("c",))))
    ratings = [Rating("1", "ann", "t", (0, 1), (1, 2))]
    reading = reading_of({"t": task}, ratings, "abc", {}, estimator=Estimator(draws=10))
    matrix = reading.findings[0].matrix
    assert matrix.win_rate("people", "a", "b").value == 0.5
    assert matrix.win_rate("people", "b", "c").value == 1


def test_nothing_ranked_is_refused(tasks):
    with pytest.raises(ValueError, match=r"expected rankings, got none \(1 without a ranking\)"):
        reading_of(tasks, RATINGS[4:], "abc", {})


def test_files(reading, tasks, tmp_path):
    results = results_of(reading)
    results.write(tmp_path)
    metrics = results.metrics
    assert metrics["rating/a_vs_b"] == pytest.approx(1 / 3)
    assert metrics["rating/late/a_vs_b"] == 0
    assert metrics["rating/agreement/some"] == 1
    assert (metrics["rating/rankings"], metrics["rating/skipped"]) == (4, 1)
    assert metrics["rating/undone"] == 2
    assert all(math.isfinite(value) for value in metrics.values())
    read = read_results(tmp_path / "tables.json")
    assert [table.title for table in read.page.tables] == [
        "Win rates, %, judge: people",
        "Win rates, %, judge: late (taught c)",
        "Policies, by people",
        "Agreement with people",
        "People",
        "Every two raters",
    ]
    assert any("Kendall's W over 1 prompts" in note for note in read.page.notes)
    assert read.plot.startswith("data:image/png")
    write_ratings(tmp_path, tasks, RATINGS, reading.raters)
    with (tmp_path / "ratings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15
    assert rows[3] | {"time": ""} == {
        "rating": "2", "rater": "person 2", "task": "t1", "group": "group t1", "policies": "b",
        "place": "1", "rank": "3", "seconds": "20.0", "time": "", "reason": "", "kind": "person",
        "acceptable": "",
    }  # fmt: skip
    assert (rows[-1]["rank"], rows[-1]["reason"]) == ("", "gibberish")
    assert "Ann" not in (tmp_path / "ratings.csv").read_text() + results.page.markdown()


def test_votes_become_preferences_that_a_reward_model_trains_on(tasks, tmp_path):
    pairs, left_out = preferences_of(gather(tasks, RATINGS))
    assert left_out == {}
    share = {}
    for pair in pairs:
        assert (pair.source, pair.provenance.strategy) == ("human", "human")
        names = pair.provenance.first_policy, pair.provenance.second_policy
        p = pair.p_first if names == tuple(sorted(names)) else 1 - pair.p_first
        share[pair.group, "".join(sorted(names))] = p
    assert share == {
        ("group t1", "ab"): pytest.approx(2 / 3), ("group t1", "ac"): 1,
        ("group t1", "bc"): pytest.approx(2 / 3), ("group t2", "ab"): 0,
        ("group t2", "ac"): 1, ("group t2", "bc"): 1,
    }  # fmt: skip
    write_preferences(tmp_path / "preferences.jsonl", pairs)
    data = PreferenceDataModule(
        preferences=str(tmp_path / "preferences.jsonl"), validation_fraction=0.0
    )
    data.prepare_data()
    data.setup("fit")
    served = [row.p_first for batch in data.train_dataloader() for row in batch.rows]
    assert sorted(served) == pytest.approx(sorted(pair.p_first for pair in pairs))


def test_an_empty_response_makes_no_preference():
    task = RatingTask("t", "p", "g", (Item("", ("a",)), Item("y", ("b",)), Item("z", ("c",))))
    pairs, left_out = preferences_of([Ranked(task, [(3, 1, 2)], 0)])
    assert [{pair.first, pair.second} for pair in pairs] == [{"y", "z"}]
    assert left_out == {"empty response": 2}


def test_policies_of_one_text_share_its_places():
    items = Item("same", ("a", "b")), Item("other", ("c",))
    task = RatingTask("t", "p", "p", items)
    (found,) = reading_of(
        {"t": task}, [Rating("s", "Ann", "t", (0, 1), (1, 2))], "abc", {}, estimator=Estimator(10)
    ).findings
    places = {name: (rank.value, best.value) for name, (rank, best) in found.ranks.items()}
    assert places == {"a": (1.5, 0.5), "b": (1.5, 0.5), "c": (3, 0)}
