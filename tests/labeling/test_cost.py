"""Cost of labels: the paper's figures, and measured ones by hand."""

import math

import pytest

from rlaif_pl.labeling.usage.spending import Price, compare_costs, human_cost, words_of
from rlaif_pl.types import Preference, Provenance

GPT4_2023 = Price(read=30.0, written=60.0)  # 8k context, September 2023


def test_the_papers_ai_label_costs_six_cents():
    # 2 inferences x (830 read at $30 a million + 61 written at $60): 2 x (.0249 + .00366)
    cost = GPT4_2023.of(read=2 * 830, written=2 * 61)
    assert cost == pytest.approx(0.05712)
    assert round(cost, 2) == 0.06


def test_the_papers_human_label_costs_sixty_seven_cents():
    # 304 words at $0.11 per 50 words: 6.08 x 0.11
    assert human_cost(304) == pytest.approx(0.6688)
    assert round(human_cost(304), 2) == 0.67


def test_labels_with_the_papers_tokens_are_more_than_ten_times_cheaper():
    post, summary = " ".join(["w"] * 250), " ".join(["w"] * 27)
    note = Provenance(tokens=2 * (830 + 61), written=2 * 61)
    rows = [Preference(post, summary, summary + "!", f"g{n}", 0.7, provenance=note) for n in "ab"]
    found = compare_costs(rows, GPT4_2023)
    assert found.words.value == words_of(rows[0]) == 304
    assert found.ai.value == pytest.approx(0.05712)
    assert found.human.value == pytest.approx(0.6688)
    assert found.times_cheaper == pytest.approx(0.6688 / 0.05712)  # 11.7
    metrics = found.to_metrics("label/cost")
    assert metrics["label/cost/ai_usd_per_pair"] == pytest.approx(0.05712)
    assert metrics["label/cost/tokens_written_per_pair"] == 122


def test_failures_cost_too_and_prices_stand_in_for_what_was_charged():
    rows = [
        Preference("a b", "c", "d", "1", 0.7, provenance=Provenance(tokens=100, cost_usd=0.02)),
        Preference("a b", "c", "d", "2", provenance=Provenance(tokens=300, failure="malformed")),
    ]
    charged = compare_costs(rows)
    assert charged.ai.value == pytest.approx(0.01)
    assert charged.ai.low < 0.01 < charged.ai.high
    assert compare_costs(rows, Price(10.0, 99.0)).ai.value == pytest.approx(200 * 10 / 1e6)


def test_a_model_of_ones_own_costs_nothing_and_no_ratio_is_claimed():
    rows = [Preference("a b", "c", "d", "1", 0.7, provenance=Provenance(tokens=100))]
    found = compare_costs(rows)
    assert math.isnan(found.times_cheaper)
    assert "x/times_cheaper" not in found.to_metrics("x")
    assert compare_costs([]).ai.n == 0
