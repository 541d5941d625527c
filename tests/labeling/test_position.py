"""Position bias, by hand."""

import math

import pytest

from rlaif_pl.labeling.usage.summary import position_bias
from rlaif_pl.types import Preference, Provenance


def row(group, p=0.6, **note):
    return Preference("p", "a", "b", group, p, provenance=Provenance(**note))


def test_share_direction_and_test_by_hand():
    slots = [1, 1, 1, 1, 1, 2, None, None]
    rows = [
        row(str(n), same_slot=slot is not None, slot=slot, position_gap=n / 8)
        for n, slot in enumerate(slots)
    ]
    found = position_bias(rows)
    assert found.same_slot.value == pytest.approx(6 / 8)
    assert found.same_slot.low < 6 / 8 < found.same_slot.high
    assert found.first_slot.value == pytest.approx(5 / 6)
    assert found.slots == (5, 1)
    assert found.p_value == pytest.approx(14 / 64)  # 2 (1 + 6) / 2^6
    assert found.position_gap.value == pytest.approx(3.5 / 8)
    # 0, 1/8, ..., 7/8 into tenths: 0 | .125 | .25 | .375 | - | .5 | .625 | .75 | .875 | -
    assert found.gap_counts == (1, 1, 1, 1, 0, 1, 1, 1, 1, 0)
    metrics = found.to_metrics("label")
    assert metrics["label/same_slot"] == pytest.approx(0.75)
    assert (metrics["label/same_slot_1"], metrics["label/same_slot_2"]) == (5, 1)
    assert "slot 1 in 83% (p = 0.22)" in found.text()


def test_a_gap_of_one_counts_in_the_last_bin():
    found = position_bias([row("g", same_slot=False, position_gap=1.0)])
    assert found.gap_counts[-1] == 1


def test_labels_without_orders_and_failures_do_not_count():
    assert position_bias([row("a"), row("b")]) is None
    assert position_bias([row("a", None, same_slot=True, slot=1)]) is None
    found = position_bias([row("a", same_slot=False), row("b")])
    assert found.same_slot.n == 1
    assert math.isnan(found.p_value)
    assert found.position_gap.n == 0
    assert "label/same_slot_p_value" not in found.to_metrics("label")
    assert "slot 1" not in found.text()


def test_the_direction_may_be_the_second_slot():
    rows = [row(str(n), same_slot=True, slot=2) for n in range(9)]
    assert "slot 2 in 100% (p = 0.0039)" in position_bias(rows).text()  # 2 / 2^9
