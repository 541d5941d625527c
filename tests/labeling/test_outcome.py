import math

import pytest
from scipy.special import expit

from rlaif_pl.labeling.outcome import Judgment, LabelerInfo, checked_temperature, labeled, sigmoid
from rlaif_pl.types import Preference, Provenance

PAIR = Preference(
    "p", "a", "b", "g", 0.9, 2.0, "human", Provenance(confidence=8, cost_usd=0.5, labeler="eve")
)
SIGNATURE = LabelerInfo("model", "pairwise", "v1")


def test_a_judgment_replaces_an_older_label():
    # margin ln 3 at temperature 1 is p = 3/4; at 2 it is sqrt(3) / (1 + sqrt(3)) = .633975.
    judgment = Judgment(math.log(3), 12, 0.1, False, 0.2)
    judged = labeled(PAIR, judgment, SIGNATURE, 1.0)
    assert judged.p_first == pytest.approx(0.75)
    assert labeled(PAIR, judgment, SIGNATURE, 2.0).p_first == pytest.approx(0.633975, abs=1e-6)
    assert (judged.source, judged.weight, judged.group) == ("ai", 2.0, "g")
    note = judged.provenance
    assert (note.labeler, note.strategy, note.prompt_version) == ("model", "pairwise", "v1")
    assert (note.confidence, note.cost_usd, note.tokens) == (None, 0.0, 12)


@pytest.mark.parametrize("margin", [math.nan, math.inf, -math.inf])
def test_a_margin_that_is_no_number_is_a_failure(margin):
    judged = labeled(PAIR, Judgment(margin, 5), SIGNATURE, 1.0)
    assert (judged.p_first, judged.source) == (None, None)
    assert judged.provenance.failure == "nonfinite"
    assert judged.provenance.tokens == 5  # failures cost too


@pytest.mark.parametrize("x", [-1e4, -30.0, -0.5, 0.0, 2.0, 1e4])
def test_sigmoid_equals_scipys(x):
    assert sigmoid(x) == pytest.approx(expit(x), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_temperatures_that_are_none_are_refused(temperature):
    with pytest.raises(ValueError, match="above 0"):
        checked_temperature(temperature)
