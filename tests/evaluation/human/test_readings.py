"""What is acceptable, ties, two raters' kappas, and people and models apart: by hand."""

import csv

import pytest

from rlaif_pl.evaluation.human.findings import acceptability, preferences_of, reading_of
from rlaif_pl.evaluation.human.records import Rating
from rlaif_pl.evaluation.human.tables import results_of, write_ratings
from rlaif_pl.statistics import Estimator, cohen_kappa, wilson

SETTINGS = Estimator(draws=200)
YES, NO = True, False


def rating(rater, task, ranks, acceptable=None, kind="person"):
    name = f"{rater}/{task}"
    return Rating(name, rater, task, (0, 1, 2), ranks, acceptable=acceptable, kind=kind)


def reading(tasks, ratings):
    return reading_of(tasks, ratings, "abc", {}, estimator=SETTINGS)


TWO = [
    rating("Ann", "t1", (1, 2, 3), (YES, YES, NO)),
    rating("Ann", "t2", (1, 2, 3), (YES, NO, NO)),
    rating("Bo", "t1", (1, 3, 2), (YES, NO, NO)),
    rating("Bo", "t2", (2, 1, 3)),
]
MODEL = [
    rating("reader", "t1", (3, 2, 1), (NO, NO, YES), "model"),
    rating("reader", "t2", None, None, "model"),
]


def test_shares_of_acceptable_texts_and_their_differences(tasks):
    found = acceptability(tasks, TWO, "abc", SETTINGS)
    assert found.shares["a"].n == 3  # Bo said nothing of t2
    assert {name: share.value for name, share in found.shares.items()} == {
        "a": 1, "b": pytest.approx(1 / 3), "c": 0,
    }  # fmt: skip
    # by prompt, of which there are two: where both agree, Wilson's limits of two trials
    assert found.shares["a"].low == pytest.approx(wilson(2, 2).low)
    assert found.differences["a", "b"].value == pytest.approx(2 / 3)
    assert -1 <= found.differences["a", "b"].low < 2 / 3 < found.differences["a", "b"].high <= 1
    certain = found.differences["a", "c"]
    assert certain.value == certain.high == 1
    assert certain.low < 0.8  # two prompts prove little, though both say the same
    assert acceptability(tasks, TWO[3:], "abc", SETTINGS).shares == {}


def test_acceptable_texts_in_every_file(tasks, tmp_path):
    found = reading(tasks, TWO)
    results = results_of(found)
    assert results.metrics["rating/acceptable/b"] == pytest.approx(1 / 3)
    assert "rating/acceptable/b_low" in results.metrics
    assert results.metrics["rating/acceptable/a_minus_b"] == pytest.approx(2 / 3)
    tables = {table.title: table for table in results.tables}
    assert tables["Acceptable texts, by people"].rows[2][0] == "c"
    share = tables["Acceptable texts, by people"].rows[2][1]
    assert share.value == share.low == 0.0 < share.high
    (row, *_) = tables["Acceptable texts, paired differences, by people"].rows
    assert row[0] == "a minus b"
    assert row[1].value == pytest.approx(2 / 3)
    write_ratings(tmp_path, tasks, TWO, found.raters)
    with (tmp_path / "ratings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["acceptable"] for row in rows] == list("110100100") + [""] * 3


def test_nobody_who_was_asked_is_no_table(tasks):
    results = results_of(reading(tasks, TWO[3:]))
    assert not [table.title for table in results.tables if "Acceptable" in table.title]
    assert not [key for key in results.metrics if "acceptable" in key]


def test_kappas_of_two_raters(tasks):
    (pair,) = reading(tasks, TWO).pairs
    assert (pair.a, pair.b, pair.prompts) == ("person 1", "person 2", 2)
    # six pairs of texts, of which they disagree on b-c of t1 and a-b of t2; chance is one half
    assert pair.preferences.n == 6
    assert pair.preferences.value == pytest.approx((4 / 6 - 1 / 2) / (1 - 1 / 2))
    # the texts of t1 alone: Bo said nothing of t2's
    assert pair.acceptable.n == 3
    assert pair.acceptable.value == pytest.approx(cohen_kappa([YES, YES, NO], [YES, NO, NO]).value)
    metrics = results_of(reading(tasks, TWO)).metrics
    assert metrics["rating/kappa_preferences/person_1_and_person_2"] == pytest.approx(1 / 3)
    assert "rating/kappa_acceptable/person_1_and_person_2" in metrics


def test_the_order_of_the_policies_changes_no_kappa(tasks):
    turned = [
        rating(r.rater, r.task, r.ranks[::-1], r.acceptable and r.acceptable[::-1]) for r in TWO
    ]
    (pair,), (other,) = reading(tasks, TWO).pairs, reading(tasks, turned).pairs
    assert other.preferences.value == pytest.approx(pair.preferences.value)


def test_a_tie_counts_half(tasks):
    tied = [rating("Ann", "t1", (1, 1, 3)), rating("Bo", "t1", (1, 1, 1))]
    (found,) = reading(tasks, tied).findings
    assert found.matrix.win_rate("people", "a", "b").value == 0.5
    assert found.matrix.win_rate("people", "a", "c").value == 0.75
    assert found.matrix.cells[0].rate.ties == 2
    mean, best = found.ranks["a"]
    assert mean.value == pytest.approx((1.5 + 2) / 2)
    assert best.value == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert sum(best.value for _, best in found.ranks.values()) == pytest.approx(1)
    # they agree that a and b tie, not on the other two pairs
    assert found.people.agreement.value == pytest.approx(1 / 3)
    assert found.people.correlation.n == 0  # Bo's ranks correlate with nothing
    assert found.top[0].value == pytest.approx((1 / 2 + 1 / 3) / 2)
    pairs, _ = preferences_of(found.ranked)
    assert sorted(max(pair.p_first, 1 - pair.p_first) for pair in pairs) == [0.5, 0.75, 0.75]
    notes = results_of(reading(tasks, tied)).notes
    assert "2 of 2 rankings have ties, which count half." in notes


def test_people_and_models_are_never_counted_together(tasks):
    both = reading(tasks, [*TWO, *MODEL])
    people, models = both.findings
    assert people.matrix.win_rate("people", "a", "c").value == 1  # as without the model
    assert models.matrix.win_rate("language models", "a", "c").value == 0
    assert people.acceptable.shares["c"].value == 0
    assert models.acceptable.shares["c"].value == 1
    assert [name.name for name in models.raters.values()] == ["language model 1"]
    results = results_of(both)
    assert results.metrics["rating/a_vs_c"] == 1
    assert results.metrics["rating/models/a_vs_c"] == 0
    assert results.metrics["rating/models/acceptable/c"] == 1
    assert results.metrics["rating/verdicts_by_human"] == 4
    assert results.metrics["rating/verdicts_by_reading"] == 1
    assert {row["ranked_by"] for row in results.records} == {"people", "language models"}
    titles = [table.title for table in results.tables]
    for title in ("Policies, by", "Acceptable texts, by"):
        assert f"{title} people" in titles
        assert f"{title} language models" in titles
    assert "Read by language models, not by people: raters 1, rankings 1." in results.notes
    assert "Read by people: raters 2, rankings 4." in results.notes
    # a model and a person may be held against each other, by name
    assert ("person 1", "language model 1") in [(pair.a, pair.b) for pair in both.pairs]


def test_votes_of_models_are_no_votes_of_people(tasks):
    people, models = reading(tasks, [*TWO, *MODEL]).findings
    votes, _ = preferences_of(models.ranked, readers=models.readers)
    assert {(vote.source, vote.provenance.labeler) for vote in votes} == {
        ("reading", "1 language models")
    }
    assert {vote.source for vote in preferences_of(people.ranked)[0]} == {"human"}


def test_models_alone_make_no_figure_of_people(tasks):
    results = results_of(reading(tasks, MODEL))
    ours = [key for key in results.metrics if not key.startswith("rating/models/")]
    assert ours == ["rating/verdicts_by_reading"]
    assert not [table.title for table in results.tables if "people" in table.title.lower()]
    assert "people" not in results.caption
