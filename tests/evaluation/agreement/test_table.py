"""Tables of labelers: rows on the same pairs, worked by hand."""

import csv
import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from rlaif_pl.evaluation.agreement import table as tables
from rlaif_pl.evaluation.agreement.table import measure_table
from rlaif_pl.labeling.usage.spending import Price
from rlaif_pl.statistics import Estimator
from rlaif_pl.types import Preference, Provenance

GOLD = [
    Preference("post 1", "abcde", "ab", "1", 1.0),  # longer is better
    Preference("post 2", "abcd", "abcde", "2", 1.0),  # shorter is better
    Preference("post 3", "abc", "de", "3", 0.0),  # shorter is better
    Preference("post 4", "abcde", "abc", "4", 1.0),  # longer is better
]
FEW = Estimator(draws=200)


@pytest.fixture
def table(answering):
    def measure(rows, gold=GOLD, **options):
        named = ((name, answering(answers)) for name, answers in rows.items())
        return measure_table(named, gold, estimator=FEW, **options)

    return measure


def test_rows_are_compared_on_the_pairs_all_labeled(table):
    measured = table({"a": [0.9, 0.9, 0.9, "malformed"], "b": [0.9, 0.1, 0.1, 0.9]})
    a, b = measured.rows
    assert (measured.pairs, measured.common) == (4, 3)
    assert a.alignment.value == pytest.approx(2 / 3)  # right, right, wrong
    assert b.alignment.value == pytest.approx(2 / 3)  # right, wrong, right
    assert b.difference.value == pytest.approx(0.0)
    assert a.difference.n == 0
    # The length rule: right, wrong, wrong.
    assert a.length_baseline.value == b.length_baseline.value == pytest.approx(1 / 3)
    assert b.gain_over_length.value == pytest.approx(1 / 3)
    # All four pairs, a's failure as a coin toss: 2.5 / 4; b: 3 / 4.
    assert a.alignment_all.value == pytest.approx(2.5 / 4)
    assert b.alignment_all.value == pytest.approx(3 / 4)
    assert b.brier.value == pytest.approx((0.01 + 0.81 + 0.01) / 3)
    assert (a.counts.malformed, b.counts.malformed) == (1, 0)


def test_the_paired_difference_is_to_the_first_row(table):
    measured = table({"a": [0.1] * 4, "b": [0.9, 0.9, 0.1, 0.1], "c": [0.5] * 4})
    # a: 1 of 4 right (the third); b: 3 of 4; c: ties, half each.
    assert [row.alignment.value for row in measured.rows] == pytest.approx([0.25, 0.75, 0.5])
    assert measured.rows[1].difference.value == pytest.approx(0.5)
    assert measured.rows[2].difference.value == pytest.approx(0.25)
    assert measured.rows[1].difference.low <= 0.5 <= measured.rows[1].difference.high


def test_a_row_that_labels_little_does_not_shrink_the_others(table):
    measured = table({"a": [0.9] * 4, "b": ["refused"] * 3 + [0.9], "c": ["too_long"] * 4})
    a, b, c = measured.rows
    assert (measured.common, a.is_common, b.is_common, c.is_common) == (4, True, False, False)
    assert (b.alignment.value, b.alignment.n) == (1.0, 1)
    assert b.difference.value == 0.0  # on the one pair both labeled
    assert b.alignment_all.value == pytest.approx((3 * 0.5 + 1) / 4)
    assert c.alignment.n == 0
    assert c.alignment_all.value == 0.5
    text = tables.page_of(measured).markdown()
    assert "| b † |" in text
    assert "4 of 4 decided pairs were labeled by every row without †" in text
    assert "refused 3" in text


def test_kappas_between_rows_and_with_people(table):
    measured = table({"a": [0.9, 0.9, 0.1, 0.1], "b": [0.8, 0.8, 0.3, 0.6]})
    kappas = {(k.first, k.second): k.kappa.value for k in measured.agreements}
    # a and b agree on 3 of 4; chance (2*3 + 2*1) / 16 = 1/2: kappa 1/2. b is people's own.
    assert kappas == pytest.approx({("a", "b"): 0.5, ("a", "gold"): 0.5, ("b", "gold"): 1.0})
    # Fleiss: observed 3/4, shares 5/8 and 3/8: chance 34/64; (14/64) / (30/64)
    assert measured.fleiss.value == pytest.approx(14 / 30)


def test_undecided_pairs_are_not_asked_about_and_verdicts_are_hidden(answering):
    gold = [*GOLD, Preference("p", "x", "y", "5", 0.5), Preference("p", "x. . .", "y", "6")]
    labeler = answering([0.9] * 4)
    measured = measure_table([("a", labeler)], gold, estimator=FEW)
    assert measured.undecided == 2
    assert [pair.p_first for pair in labeler.seen] == [None] * 4
    assert math.isnan(measured.fleiss.value)


def test_labelers_are_taken_one_at_a_time(answering):
    alive = []

    def rows():
        for name in "ab":
            alive.append(name)
            yield name, answering([0.9] * 4)

    measure_table(rows(), GOLD, estimator=FEW)
    assert alive == ["a", "b"]


def test_what_cannot_be_compared_is_refused(table, answering):
    with pytest.raises(ValueError, match="at least one labeler"):
        table({})
    with pytest.raises(ValueError, match="labeled by all"):
        table({"a": ["malformed"] * 4})
    with pytest.raises(ValueError, match="different name"):
        measure_table([("a", answering([0.9] * 4))] * 2, GOLD)
    with pytest.raises(ValueError, match="verdict that is no tie"):
        table({"a": []}, [replace(GOLD[0], p_first=None)])


@pytest.fixture
def priced():
    class Biased:
        fingerprint = "biased"

        def label(self, pairs):
            note = Provenance(
                same_slot=True, slot=1, position_gap=0.8, tokens=1000, written=100, cost_usd=0.0
            )
            return [replace(p, p_first=0.6, source="ai", provenance=note) for p in pairs]

    prices = Price(read=10.0, written=100.0)
    return measure_table([("in words", Biased())], GOLD, prices=prices, estimator=FEW)


def test_position_tokens_and_cost_stand_in_the_table(priced):
    (row,) = priced.rows
    assert row.cost.ai.value == pytest.approx(0.009 + 0.01)
    text = tables.page_of(priced).markdown()
    assert "slot 1: 100, p = 0.12" in text  # 2 / 2^4
    assert "900 + 100" in text
    assert "0.019" in text
    assert "times cheaper" in text


def test_the_printed_table_has_its_brackets_and_notes(priced):
    stream = io.StringIO()
    tables.page_of(priced, "A title").render(Console(file=stream, width=150))
    said = stream.getvalue()
    assert "A title" in said
    assert "4 of 4 decided pairs" in said
    assert "[" in said


def test_files_hold_every_figure_with_its_limits(table, tmp_path):
    measured = table({"a": [0.9, 0.9, 0.9, 0.2], "b": [0.9, 0.1, 0.1, 0.9], "c": [0.4] * 4})
    tables.write(measured, tmp_path)
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert [row["name"] for row in rows] == ["a", "b", "c"]
    assert float(rows[1]["alignment"]) == pytest.approx(0.75)
    assert float(rows[1]["alignment_low"]) <= 0.75 <= float(rows[1]["alignment_high"])
    assert rows[0]["difference"] == ""
    content = json.loads((tmp_path / "rows.json").read_text())
    assert content["rows"][1]["alignment"] == pytest.approx(0.75)
    assert {"first", "second", "kappa", "kappa_low", "kappa_high"} == set(content["kappas"][0])
    assert content["rows"][0]["order_gap_counts"] is None  # no orders
    assert len(content["kappas"]) == 6  # three pairs of rows, three rows with people
    text = (tmp_path / "table.md").read_text()
    assert "Cohen's kappa" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith(("| a |", "| b |"))}
    assert len(widths) == 2  # the table and the matrix, each with all its cells
    metrics = tables.to_metrics(measured)
    assert metrics["alignment/b/alignment"] == pytest.approx(0.75)
    assert metrics["alignment/common"] == 4
    assert all(math.isfinite(value) for value in metrics.values())
