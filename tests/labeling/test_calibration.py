from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from rlaif_pl.labeling.outcome import Judgment, LabelerInfo, labeled
from rlaif_pl.labeling.strategy import calibrate
from rlaif_pl.types import Preference


class ByLength:
    """A rule as labeler: the margin is the difference in characters; it fails on empty texts."""

    fingerprint = "length"
    temperature = 1.0

    def label(self, pairs):
        assert all(pair.p_first is None for pair in pairs)  # it never sees the gold verdicts
        return [
            labeled(
                pair,
                Judgment(
                    float(len(pair.first) - len(pair.second)),
                    failure=None if pair.first else "empty",
                ),
                LabelerInfo("length", "rule", "1"),
                1.0,
            )
            for pair in pairs
        ]


def gold(n, temperature):
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 12, (n, 2))
    return [
        Preference("p", "x" * a, "x" * b, str(i), float(expit((a - b) / temperature)), 1.0, "human")
        for i, (a, b) in enumerate(sizes)
    ]


@pytest.mark.parametrize("temperature", [0.7, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    # The targets are sigmoid(margin / T) themselves, so the likeliest temperature is T.
    found = calibrate(ByLength(), gold(60, temperature))
    assert found == pytest.approx(temperature, rel=1e-4)


def test_pairs_without_gold_or_label_are_left_out():
    pairs = gold(21, 1.0)
    pairs[0] = replace(pairs[0], p_first=None)
    pairs[1] = replace(pairs[1], first="")
    with pytest.raises(ValueError, match="got 19 of 21"):
        calibrate(ByLength(), pairs)
    assert calibrate(ByLength(), pairs + gold(1, 1.0)) == pytest.approx(1.0, rel=1e-4)


def test_too_few_pairs_are_refused():
    with pytest.raises(ValueError, match="at least 20"):
        calibrate(ByLength(), gold(19, 1.0))


def test_a_labeler_without_temperature_cannot_be_calibrated():
    class Bare:
        fingerprint = "bare"

        def label(self, pairs):
            return list(pairs)

    with pytest.raises(ValueError, match="Bare; leave fit_temperature_on out"):
        calibrate(Bare(), gold(40, 0.5))
