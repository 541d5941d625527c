import pytest

from rlaif_pl.labeling.usage.summary import summarize_labels
from rlaif_pl.types import Preference, Provenance


def pair(p, first="long text", second="text", **note):
    return Preference("p", first, second, "g", p, provenance=Provenance(**note))


def test_by_hand():
    rows = [
        pair(0.9, position_gap=0.1, same_slot=True, off_option_mass=0.2, tokens=10, cost_usd=0.01),
        pair(
            0.55, position_gap=0.3, same_slot=False, off_option_mass=0.4, tokens=10, cost_usd=0.02
        ),
        pair(0.2, position_gap=0.2, same_slot=False, off_option_mass=0.0, tokens=10),
        pair(0.5, "same", "size", tokens=10),
        pair(None, failure="too_long"),
        pair(None, failure="too_long"),
        pair(None, failure="nonfinite", tokens=5),
        pair(None),
    ]
    summary = summarize_labels(rows)
    assert (summary.counts.asked, summary.counts.unusable) == (8, 4)
    assert summary.counts.reasons == {"nonfinite": 1, "too_long": 2, "unlabeled": 1}
    assert summary.mean_p_first.value == pytest.approx((0.9 + 0.55 + 0.2 + 0.5) / 4)
    assert summary.decided.value == pytest.approx(2 / 4)  # 0.9 and 0.2
    assert summary.longer_wins.value == pytest.approx(2 / 3)  # equal lengths do not count
    assert summary.position.same_slot.value == pytest.approx(1 / 3)
    assert summary.position.position_gap.value == pytest.approx(0.2)
    assert summary.off_option_mass.value == pytest.approx(0.2)
    assert summary.tokens == 45
    assert summary.cost_usd == pytest.approx(0.03)
    assert summary.to_json() == {
        "order_gap_counts": [0, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        "failures": {"nonfinite": 1, "too_long": 2, "unlabeled": 1},
    }
    metrics = summary.to_metrics("label")
    assert (metrics["label/pairs"], metrics["label/labeled"]) == (8, 4)
    assert metrics["label/count/tied"] == 1
    assert metrics["label/count/malformed"] == 1
    assert metrics["label/cost/ai_usd_per_pair"] == pytest.approx(0.03 / 8)
    assert metrics["label/failed"] == 4
    assert metrics["label/failed_too_long"] == 2
    assert metrics["label/same_slot"] == pytest.approx(1 / 3)


def test_what_does_not_apply_is_left_out():
    metrics = summarize_labels([pair(0.7, tokens=3)]).to_metrics()
    assert "label/same_slot" not in metrics
    assert "label/position_gap" not in metrics
    assert metrics["label/decided"] == 1.0


def test_nothing_labeled_is_not_an_error():
    assert summarize_labels([]).to_metrics()["label/labeled"] == 0
    assert summarize_labels([pair(0.0, "a", "bb")]).longer_wins.value == 1.0
