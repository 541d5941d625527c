import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from rlaif_pl.labeling.calls import Response
from rlaif_pl.labeling.prompting.verdicts import Order, combine

ODDS = st.lists(st.floats(-15, 15), min_size=1, max_size=5)


def said(*answers, tokens=0):
    """An order in which these probabilities of the two verdicts were read."""
    order = Order()
    for one, two in answers:
        order.add_verdict(Response(logprobs=(math.log(one), math.log(two)), read=tokens))
    return order


def with_odds(odds):
    order = Order()
    for each in odds:
        order.odds.append(each)
        order.outside.append(0.0)
    return order


def test_two_orders_by_hand():
    # Order 1: P(1) = .6, P(2) = .2 -> p(first) = .75. Order 2: P(1) = .3, P(2) = .3 -> .5.
    # Average .625, log-odds ln(.625/.375) = .510826; gap .25; outside (.2 + .4) / 2 = .3.
    judgment = combine(said((0.6, 0.2), tokens=4), said((0.3, 0.2999999), tokens=5), False)
    assert judgment.margin == pytest.approx(0.510826, abs=1e-6)
    assert judgment.position_gap == pytest.approx(0.25, abs=1e-6)
    assert judgment.off_option_mass == pytest.approx(0.3, abs=1e-6)
    assert judgment.same_slot is True  # slot 1 won both times, if barely
    assert judgment.slot == 1
    assert judgment.tokens == 9


def test_self_consistency_averages_distributions_by_hand():
    # Order 1: p(first) .9 and .5 -> .7; order 2 names slot 1 with .2, so p(first) = .8. Mean .75.
    judgment = combine(said((0.9, 0.1), (0.5, 0.5)), said((0.2, 0.8)), False)
    assert judgment.margin == pytest.approx(math.log(3))
    assert judgment.position_gap == pytest.approx(0.1)
    assert (judgment.same_slot, judgment.slot) == (False, None)


def test_a_verdict_for_the_worse_response_is_turned_around():
    orders = said((0.6, 0.2)), said((0.1, 0.3))
    better, worse = combine(*orders, False), combine(*orders, True)
    assert better.margin > 0
    assert worse.margin == -better.margin
    assert worse.position_gap == pytest.approx(better.position_gap, abs=1e-12)
    assert worse.same_slot is better.same_slot is False


@pytest.mark.parametrize(("one", "slot"), [(0.1, 2), (0.9, 1)])
def test_pure_position_bias_gives_one_half_and_names_its_slot(one, slot):
    judgment = combine(said((one, 1 - one)), said((one, 1 - one)), False)
    assert judgment.margin == pytest.approx(0.0, abs=1e-12)
    assert (judgment.same_slot, judgment.slot) == (True, slot)
    assert judgment.position_gap == pytest.approx(0.8)


def test_an_exact_tie_has_margin_zero_and_no_slot():
    judgment = combine(said((0.3, 0.3)), said((0.2, 0.2)), False)
    assert judgment.margin == 0.0
    assert (judgment.same_slot, judgment.slot) == (False, None)


@given(ODDS, ODDS)
def test_the_margin_is_the_log_odds_of_the_averaged_probability(one, two):
    judgment = combine(with_odds(one), with_odds([-each for each in two]), False)
    mean = (expit(one).mean() + expit(two).mean()) / 2
    assert judgment.margin == pytest.approx(logit(mean), abs=1e-6)


@given(ODDS, ODDS)
def test_exchanging_the_orders_negates_the_margin_exactly(one, two):
    forward, backward = (
        combine(with_odds(one), with_odds(two), False),
        combine(with_odds(two), with_odds(one), False),
    )
    assert forward.margin == -backward.margin
    assert forward.position_gap == pytest.approx(backward.position_gap, abs=1e-12)
    assert (forward.slot, forward.same_slot) == (backward.slot, backward.same_slot)


@pytest.mark.parametrize("odds", [(1e3, 1e3), (-1e3, -1e3), (1e3, -1e3), (0.0, 1e4)])
def test_saturated_answers_stay_finite(odds):
    assert math.isfinite(combine(with_odds(odds[:1]), with_odds(odds[1:]), False).margin)


@pytest.mark.parametrize(
    ("logprobs", "failure"),
    [
        ((math.nan, -1.0), "nonfinite"),
        ((-math.inf, -1.0), "nonfinite"),
        ((None, -0.01), "missing_logprob"),
        ((None, None), "missing_logprob"),
        ((), "missing_logprob"),
    ],
)
def test_an_answer_that_cannot_be_read_is_not_a_label(logprobs, failure):
    order = Order()
    order.add_verdict(Response(logprobs=logprobs, read=3, cost_usd=0.5))
    judgment = combine(order, said((0.5, 0.4)), False)
    assert judgment.failure == failure
    assert (judgment.tokens, judgment.cost_usd) == (3, 0.5)  # failures cost too


def test_an_order_stands_on_more_than_half_of_its_samples():
    order = said((0.9, 0.1), (0.9, 0.1))
    order.failures.append("timeout")
    assert order.failure is None
    order.failures.append("http_500")
    assert order.failure == "http_500"
