"""Outcomes by kind."""

import math

import pytest

from rlaif_pl.labeling.usage.summary import count_outcomes, kind_of
from rlaif_pl.types import Preference, Provenance


def row(p=None, failure=None):
    return Preference("p", "a", "b", "g", p, provenance=Provenance(failure=failure))


def test_every_pair_is_counted_once():
    rows = [
        row(0.9), row(0.2), row(0.5),
        row(failure="malformed"), row(failure="empty"),
        row(failure="refused"),
        row(failure="too_long"),
        row(failure="timeout"), row(failure="http_500"), row(),
    ]  # fmt: skip
    counts = count_outcomes(rows)
    assert (counts.decided, counts.tied) == (2, 1)
    assert (counts.malformed, counts.refused, counts.too_long, counts.failed) == (2, 1, 1, 3)
    assert counts.asked == counts.decided + counts.tied + counts.unusable == 10
    assert counts.unusable_share == pytest.approx(0.7)
    assert counts.reasons["unlabeled"] == 1
    assert counts.text() == "malformed 2, refused 1, too_long 1, failed 3, tied 1"
    assert counts.to_metrics("x")["x/tied"] == 1


def test_nothing_asked_has_no_share():
    counts = count_outcomes([])
    assert math.isnan(counts.unusable_share)
    assert counts.text() == "none"


def test_an_unknown_reason_is_a_failed_call():
    assert kind_of("connection") == "failed"
    assert kind_of(None) == "failed"
