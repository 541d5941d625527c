"""Alignment of a labeler with people: worked by hand, on real data, and what is left out."""

import io
import json
import os
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from rlaif_pl.evaluation.agreement.measure import (
    LabelerGateError,
    LabelerGateWarning,
    QualityThresholds,
    alignment_of,
    measure_alignment,
)
from rlaif_pl.labeling.usage.spending import Price
from rlaif_pl.statistics import Estimator
from rlaif_pl.types import Preference, Provenance

DATA = Path(os.environ.get("RLAIF_PL_DATA", Path(__file__).parents[4] / "shared" / "data"))
BATCH13 = DATA / "tldr_comparisons" / "batch13.json"


def pair(first, second, p_first, group="g"):
    return Preference(f"post {group}", first, second, group, p_first, source="human")


GOLD = [
    pair("abcde", "ab", 1.0, "1"),  # longer is better
    pair("abcd", "abcde", 1.0, "2"),  # shorter is better, 4/5: matched
    pair("abc", "def", 0.0, "3"),  # equal length, matched
    pair("abcde", "abc", 0.0, "4"),  # shorter is better
]


@pytest.fixture
def measured(answering):
    def measure(answers, gold=GOLD, **options):
        return measure_alignment(answering(answers), gold, estimator=Estimator(200), **options)

    return measure


def test_every_figure_by_hand(measured):
    report = measured([0.9, 0.8, 0.5, 0.7])
    # right, right, tie, wrong: 2.5 / 4. Length: right, wrong, tie, wrong: 1.5 / 4.
    assert report.alignment.value == pytest.approx(0.625)
    assert report.length_baseline.value == pytest.approx(0.375)
    assert report.gain_over_length.value == pytest.approx(0.25)
    assert report.length_matched.value == pytest.approx(0.75)  # rows 2 and 3
    assert (report.alignment.n, report.length_matched.n) == (4, 2)
    # Squares of .1, .2, .5 and .7 add up to .79.
    assert report.brier == pytest.approx(0.1975)
    assert report.mean_tokens == 10
    assert report.position is None


def test_the_length_rule_gains_nothing_over_itself(length_labeler):
    report = measure_alignment(length_labeler, GOLD)
    assert report.alignment == report.length_baseline
    assert report.gain_over_length.value == 0


def test_people_undecided_and_failed_labels_are_left_out_and_counted(measured):
    gold = [*GOLD, pair("x", "y", 0.5), pair("x", "y", None)]
    report = measured([0.9, "malformed", "too_long", "malformed"], gold)
    assert report.alignment.n == 1
    assert report.undecided == 2
    assert report.counts.reasons == {"malformed": 2, "too_long": 1}
    metrics = report.to_metrics()
    assert (metrics["labeler/failures"], metrics["labeler/failures_malformed"]) == (3, 2)


def test_the_labeler_sees_neither_the_verdict_nor_trailing_full_stops(answering):
    labeler = answering([0.9])
    measure_alignment(labeler, [pair("good. . .", "bad", 1.0)])
    (seen,) = labeler.seen
    assert (seen.first, seen.p_first, seen.source) == ("good.", None, None)


def test_turning_every_pair_changes_nothing(measured):
    turned = [replace(p, first=p.second, second=p.first, p_first=1 - p.p_first) for p in GOLD]
    once, twice = measured([0.9, 0.8, 0.5, 0.7]), measured([0.1, 0.2, 0.5, 0.3], turned)
    for key, value in once.to_metrics().items():
        assert twice.to_metrics()[key] == pytest.approx(value), key


def test_metric_names_are_those_promised(measured):
    metrics = measured([0.9, 0.8, 0.5, 0.7]).to_metrics()
    for name in ("alignment", "length_baseline", "gain_over_length", "length_matched"):
        assert {f"labeler/{name}{end}" for end in ("", "_low", "_high")} <= set(metrics)
    assert metrics["labeler/n"] == 4
    assert "labeler/same_slot" not in metrics


def test_same_slot_share_counts_pairs_judged_in_both_orders():
    labeled = [
        replace(gold, p_first=0.9, provenance=Provenance(same_slot=slot))
        for gold, slot in zip(GOLD, [True, False, True, None], strict=True)
    ]
    report = alignment_of(labeled, GOLD)
    assert report.position is not None
    assert report.position.same_slot.value == pytest.approx(2 / 3)
    assert report.position.same_slot.n == 3
    assert report.to_metrics()["labeler/same_slot"] == pytest.approx(2 / 3)


def test_the_slot_is_told_where_the_labeler_records_it():
    gold = [pair("x", "y", 1.0, str(i)) for i in range(7)]
    slots = [1, 1, 1, 1, 1, 2, None]
    labeled = [
        replace(row, p_first=0.6, provenance=Provenance(same_slot=bool(slot), slot=slot))
        for row, slot in zip(gold, slots, strict=True)
    ]
    position = alignment_of(labeled, gold).position
    assert position is not None
    assert position.first_slot.value == pytest.approx(5 / 6)
    assert position.p_value == pytest.approx(14 / 64)  # 2 (1 + 6) / 2^6


def test_nothing_to_measure_is_an_error_that_says_why(measured):
    with pytest.raises(ValueError, match=r"2 of 2 gold pairs are undecided"):
        measured([], [pair("x", "y", 0.5), pair("x", "y", None)])
    with pytest.raises(ValueError, match=r"malformed"):
        measured(["malformed"], GOLD[:1])
    with pytest.raises(ValueError, match="label per gold pair"):
        alignment_of(GOLD[:1], GOLD)


def test_the_table_names_the_length_rule_and_says_na_without_orders(measured):
    stream = io.StringIO()
    report = measured([0.9, 0.8, "too_long", 0.7])
    report.render(Console(file=stream, width=120))
    text = stream.getvalue()
    assert "longer response wins" in text
    assert "n/a" in text
    assert "too_long 1" in text
    assert "[" in text  # the interval's bracket is text, not markup


def test_the_table_shows_gaps_and_costs_where_they_are_known(measured):
    note = Provenance(same_slot=True, slot=2, position_gap=0.95, tokens=2000, written=0)
    labeled = [replace(gold, provenance=note) for gold in GOLD]
    stream = io.StringIO()
    alignment_of(labeled, GOLD, prices=Price(1.0, 2.0)).render(Console(file=stream, width=150))
    text = stream.getvalue()
    assert "slot 2 in 100% (p = 0.12)" in text
    assert "0 0 0 0 0 0 0 0 0 4" in text
    assert "0.002" in text  # 2000 tokens at $1 a million
    assert "times cheaper" in text
    stream = io.StringIO()
    measured([0.9] * 4).render(Console(file=stream, width=150))
    assert "times cheaper" not in stream.getvalue()


def test_a_gate_passes_warns_or_stops(measured):
    good, bad = measured([0.9, 0.8, 0.1, 0.1]), measured([0.1, 0.2, 0.9, 0.7])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert QualityThresholds("stop", 0.9, 0.1).check(good) == []
    with pytest.warns(LabelerGateWarning, match="expected at least 60.0%"):
        assert len(QualityThresholds().check(bad)) == 2
    with pytest.raises(LabelerGateError, match="Try a larger labeler"):
        QualityThresholds(action="stop").check(bad)
    with pytest.warns(LabelerGateWarning, match="alignment"):
        assert len(QualityThresholds(min_gain=None).check(bad)) == 1
    with pytest.raises(ValueError, match="'warn', 'stop' or 'off'"):
        QualityThresholds(action="ignore").check(good)
    with pytest.raises(ValueError, match=r"min_alignment in \[0, 1\], got 60"):
        QualityThresholds(min_alignment=60).check(good)


@pytest.mark.parametrize("name", ["min_gain", "max_same_slot", "max_failures"])
def test_limits_of_the_gate_are_shares(name):
    assert getattr(QualityThresholds(**{name: 0.5}), name) == 0.5
    assert getattr(QualityThresholds(**{name: None}), name) is None
    with pytest.raises(ValueError, match=rf"gate\.{name} in \[.*, 1\], or null not to ask, got 10"):
        QualityThresholds(**{name: 10})


def test_the_gate_asks_for_confidence_where_wanted(measured):
    good = measured([0.9, 0.8, 0.1, 0.1])  # 4 of 4: Wilson's lower limit is 51 %
    assert QualityThresholds("stop", 0.6, None).check(good) == []
    with pytest.warns(LabelerGateWarning, match="all of its interval"):
        assert len(QualityThresholds("warn", 0.6, None, confident=True).check(good)) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert QualityThresholds("warn", 0.5, None, confident=True).check(good) == []


def test_the_gate_sees_position_bias_and_failures(measured):
    labeled = [
        replace(gold, provenance=Provenance(same_slot=True, slot=1, position_gap=0.9))
        for gold in GOLD
    ]
    biased = alignment_of(labeled, GOLD)
    with pytest.warns(LabelerGateWarning, match=r"slot 1 in 100%.*strategy without slots"):
        assert len(QualityThresholds().check(biased)) == 1
    assert QualityThresholds(max_same_slot=None).check(biased) == []
    failing = measured([0.9, 0.8, 0.1, "refused"])
    with pytest.warns(LabelerGateWarning, match=r"25.0% of 4 pairs have no label \(refused 1\)"):
        assert len(QualityThresholds().check(failing)) == 1
    assert QualityThresholds(max_failures=0.25).check(failing) == []


@pytest.fixture(scope="module")
def batch13():
    if not BATCH13.is_file():
        pytest.skip(f"needs the OpenAI TL;DR comparisons at {BATCH13}")
    rows = [json.loads(line) for line in BATCH13.read_text().splitlines()]
    gold = [
        Preference(
            row["info"]["post"],
            row["summaries"][0]["text"],
            row["summaries"][1]["text"],
            row["info"]["id"],
            1.0 - row["choice"],
            source="human",
        )
        for row in rows
    ]
    return gold, [row["extra"]["confidence"] for row in rows]


def test_the_length_rule_on_real_comparisons(batch13, length_labeler):
    gold, confidence = batch13
    confident = [p for p, c in zip(gold, confidence, strict=True) if c in (1, 2, 8, 9)]
    report = measure_alignment(length_labeler, gold)
    assert report.alignment.n == 981
    assert report.alignment.value == pytest.approx(0.706, abs=0.005)
    high = measure_alignment(length_labeler, confident).alignment
    assert high.n == len(confident) == 495
    assert high.value == pytest.approx(0.758, abs=0.005)
    assert report.alignment.low < report.alignment.value < report.alignment.high
    # 810 posts and p about 0.7: a standard error of about 1.6 points
    assert report.alignment.high - report.alignment.low == pytest.approx(0.06, abs=0.01)
