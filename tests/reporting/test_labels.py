"""The report's section on labels."""

import json

from rlaif_pl.labeling.usage.summary import summarize_labels
from rlaif_pl.reporting import write_report
from rlaif_pl.reporting.sections import cost_lines, label_warnings, outcome_lines, position_lines
from rlaif_pl.types import Preference, Provenance


def labeled(n, p=0.7, **note):
    provenance = Provenance(tokens=1782, written=122, cost_usd=0.05712, **note)
    return [
        Preference("w " * 200, "a b c", "d e", f"g{i}", p, provenance=provenance) for i in range(n)
    ]


def test_a_labeling_job_is_shown_with_its_bias_counts_and_cost(tmp_path):
    rows = labeled(18, same_slot=True, slot=2, position_gap=0.85)
    rows += labeled(2, same_slot=False, position_gap=0.05)
    rows += labeled(3, None, failure="refused") + labeled(1, 0.5)
    summary = summarize_labels(rows)
    stage = tmp_path / "label"
    stage.mkdir()
    (tmp_path / "metrics.json").write_text(json.dumps(summary.to_metrics("label")))
    (stage / "done.json").write_text(json.dumps({"seconds": 1.0, "time": 1}))
    (stage / "labels.json").write_text(json.dumps(summary.to_json()))
    page = write_report(tmp_path).read_text()
    assert "refused to judge (not trained on)" in page
    assert "ties (a label of 0.5" in page
    assert "90.0 %" in page  # 18 of 20 in the same slot
    assert "0 / 18" in page
    assert "histogram-gap-between" in page
    assert "0.0571" in page
    assert "The same slot won in both orders in 90 % of pairs" in page
    assert "3 of 24 pairs (12 %) have no label" in page


def test_lines_by_hand():
    metrics = summarize_labels(labeled(4)).to_metrics("label")
    costs = dict(cost_lines(metrics))
    assert costs["words a person would read for a pair"].startswith("205")
    # 205 words at $0.11 per 50: 0.451; over 0.05712: 7.9
    assert costs["times cheaper"] == "7.9"
    outcomes = dict(outcome_lines(metrics))
    assert outcomes["labels that favor a side"] == "4"
    assert not any("refused" in text for text in outcomes)
    assert position_lines(metrics) == []
    assert label_warnings(metrics) == []


def test_a_model_of_ones_own_is_not_called_free():
    metrics = summarize_labels([Preference("p", "a", "bb", "g", 0.7)]).to_metrics("label")
    assert any("machine time is not priced" in value for _, value in cost_lines(metrics))


def test_nothing_labeled_shows_nothing():
    assert outcome_lines({}) == position_lines({}) == cost_lines({}) == label_warnings({}) == []
