"""Hybrid preferences: weights, temperatures and their fit, by hand."""

import dataclasses
import math

import pytest
import torch

from rlaif_pl.data.mixing import (
    Calibration,
    PreferencePart,
    fitted_temperature,
    load_pairs,
    tempered,
)
from rlaif_pl.data.preferences import write_preferences
from rlaif_pl.data.sources import DataSource
from rlaif_pl.ops import pairwise_ce
from rlaif_pl.training.pairs_module import labels
from rlaif_pl.types import Batch, Preference


def pair(n, p_first, source, weight=1.0):
    return Preference(f"post {n}", f"a{n}", f"b{n}", f"g{n}", p_first, weight, source)


@pytest.fixture
def sources(tmp_path):
    """Two pairs judged by people, two by a labeler."""
    human = [pair(0, 1.0, "human"), pair(1, 0.75, "human", weight=2.0)]
    machine = [pair(2, 0.9, "ai"), pair(3, 0.5, "ai")]
    for name, rows in (("human", human), ("ai", machine)):
        write_preferences(tmp_path / f"{name}.jsonl", rows)
    return {name: str(tmp_path / f"{name}.jsonl") for name in ("human", "ai")}


def test_weights_and_temperatures_by_hand(sources):
    mix = [
        PreferencePart(sources["human"], weight=3.0),
        PreferencePart(sources["ai"], weight=0.5, temperature=2.0),
    ]
    rows = load_pairs(mix).rows
    # human weights 1 and 2 times 3; those of the labeler 1 times 0.5
    assert [row.weight for row in rows] == [3.0, 6.0, 0.5, 0.5]
    # logit(.9) = ln 9; half of it is ln 3, whose sigmoid is 3 / 4; .5 has log-odds 0
    assert [row.p_first for row in rows] == pytest.approx([1.0, 0.75, 0.75, 0.5])
    assert [row.source for row in rows] == ["human", "human", "ai", "ai"]


def test_the_weighted_loss_by_hand(sources):
    rows = load_pairs([PreferencePart(sources["human"], 3.0), PreferencePart(sources["ai"], 0.5)])
    target, weight = labels(Batch(rows.rows, range(4), [False] * 4), torch.device("cpu"))
    # equal rewards: each pair loses ln 2 whatever its label, so weights alone count: 3 + 6 + .5 + .5
    zeros = torch.zeros(4)
    total = pairwise_ce(zeros, zeros, target, weight).sum()
    assert total.item() == pytest.approx(10 * math.log(2))
    assert weight.sum().item() == 10


@pytest.mark.parametrize(
    ("p", "temperature", "expected"),
    [
        (0.8, 1.0, 0.8),
        (0.8, 0.5, 16 / 17),  # odds 4 squared
        (0.2, 0.5, 1 / 17),
        (0.9, 1e6, 0.5),
        (0.0, 3.0, 0.0),
        (1.0, 3.0, 1.0),
        (1e-300, 0.01, 0.0),
    ],
)
def test_a_tempered_label_by_hand(p, temperature, expected):
    assert tempered(p, temperature) == pytest.approx(expected, abs=1e-6)


def judged(tmp_path, count=40):
    """A labeler that says .9 where people say yes in three of four, and .1 likewise."""
    people, machine = [], []
    for n in range(count):
        leans_first = n % 2 == 0
        is_wrong = n % 8 in (0, 1)  # one of four on either side
        people.append(pair(n, float(leans_first != is_wrong), "human"))
        machine.append(pair(n, 0.9 if leans_first else 0.1, "ai"))
    write_preferences(tmp_path / "people.jsonl", people)
    write_preferences(tmp_path / "machine.jsonl", machine)
    return Calibration(str(tmp_path / "machine.jsonl"), str(tmp_path / "people.jsonl"))


def test_a_temperature_fitted_on_pairs_that_people_judged(sources, tmp_path):
    calibration = judged(tmp_path)
    # right in 3 of 4, so log-odds ln 9 should have been ln 3: T = 2
    assert fitted_temperature(calibration) == pytest.approx(2.0, rel=1e-4)
    rows = load_pairs([PreferencePart(sources["ai"], calibration=calibration)]).rows
    assert rows[0].p_first == pytest.approx(0.75, rel=1e-4)


def test_pairs_of_one_side_only_do_not_count(tmp_path):
    calibration = judged(tmp_path, 16)
    with pytest.raises(ValueError, match=r"at least 20 .* got 16 \(16 by the labeler, 16 by"):
        fitted_temperature(calibration)
    shifted = [dataclasses.replace(pair(n, 0.9, "ai"), group=f"other {n}") for n in range(40)]
    write_preferences(tmp_path / "machine.jsonl", shifted)
    with pytest.raises(ValueError, match="got 0"):
        fitted_temperature(calibration)


def test_unlabeled_pairs_have_no_temperature(tmp_path):
    write_preferences(tmp_path / "bare.jsonl", [pair(0, None, None)])
    name = str(tmp_path / "bare.jsonl")
    assert load_pairs([PreferencePart(DataSource(name), 2.0)]).rows[0].weight == 2.0
    with pytest.raises(ValueError, match=r"labeled pairs in .*bare\.jsonl"):
        load_pairs([PreferencePart(name, temperature=2.0)])


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="weight above 0, got 0"):
        PreferencePart("x", weight=0.0)
    with pytest.raises(ValueError, match="temperature above 0, got -1"):
        PreferencePart("x", temperature=-1.0)
    with pytest.raises(ValueError, match="drop one of them"):
        PreferencePart("x", temperature=2.0, calibration=Calibration("a", "b"))
    with pytest.raises(ValueError, match="an empty list"):
        load_pairs([])
