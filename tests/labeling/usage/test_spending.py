"""Money: prices, totals, limits and the guess beforehand, worked by hand."""

import math
from itertools import combinations, pairwise
from types import SimpleNamespace

import pytest

from rlaif_pl.cli import main as cli
from rlaif_pl.labeling.calls import (
    ChoiceRequest,
    Decoding,
    GenerateRequest,
    LoglikelihoodRequest,
    Question,
    Response,
)
from rlaif_pl.labeling.strategies.ensemble import EnsembleLabeler
from rlaif_pl.labeling.strategies.listwise import ListwiseLabeler
from rlaif_pl.labeling.strategy import ModelLabeler
from rlaif_pl.labeling.usage import projection
from rlaif_pl.labeling.usage.projection import ThroughputEstimator, estimate_cost
from rlaif_pl.labeling.usage.spending import (
    BudgetTracker,
    OutOfBudget,
    Price,
    price_of,
    refuse_unpriced,
)
from rlaif_pl.types import Preference

CALL = LoglikelihoodRequest("a", " b")


def test_a_price_is_per_million_tokens():
    # 830 read at 30 USD and 61 written at 60 USD per million, twice: the paper's pair for 0.057 USD
    assert 2 * Price(30.0, 60.0).of(830, 61) == pytest.approx(0.05712)


@pytest.mark.parametrize("values", [(-1.0, 0.0), (0.0, float("nan")), (float("inf"), 0.0)])
def test_impossible_prices_are_refused(values):
    with pytest.raises(ValueError, match="USD per million"):
        Price(*values)


def test_a_table_must_name_the_model():
    table = {"a": Price(1.0, 2.0)}
    assert price_of("a", table) == Price(1.0, 2.0)
    assert price_of("a", None) is None
    with pytest.raises(ValueError, match=r"expected a price for 'b', got prices for \['a'\]"):
        price_of("b", table)


def test_totals_add_up():
    spending = BudgetTracker()
    spending.count(CALL, Response(read=10, written=2, cost_usd=0.5, seconds=1.0, attempts=2))
    spending.count(CALL, Response(read=5, cost_usd=0.25, seconds=0.5, failure="timeout"))
    assert spending.to_metrics("x") == {
        "x/run_calls": 2.0,
        "x/run_failed_calls": 1.0,
        "x/run_requests": 3.0,
        "x/run_read_tokens": 15.0,
        "x/run_written_tokens": 2.0,
        "x/run_cost_usd": 0.75,
        "x/run_call_seconds": 1.5,
    }
    assert spending.line() == "2 calls, 1 failed, 17 tokens, 0.7500 USD"


def test_the_limit_stops_at_the_reply_that_reaches_it_and_counts_it():
    spending = BudgetTracker(max_cost=1.0)
    spending.count(CALL, Response(cost_usd=0.75))
    with pytest.raises(OutOfBudget, match=r"1\.2500 of 1\.0000 USD"):
        spending.count(CALL, Response(cost_usd=0.5))
    assert (spending.calls, spending.cost_usd) == (2, 1.25)
    spending.count(CALL, Response())  # what costs nothing needs no money


def test_a_limit_that_no_price_could_reach_is_refused():
    free = SimpleNamespace()  # a model on this machine has no price
    priced, unpriced = SimpleNamespace(price=Price(1, 2)), SimpleNamespace(price=None, model="m")
    refuse_unpriced(None, [unpriced])
    refuse_unpriced(5.0, [free, priced])
    with pytest.raises(ValueError, match=r"max_cost 5 .*\{m: \{read: 0.15, written: 0.6\}\}"):
        refuse_unpriced(5.0, [free, unpriced])


def test_a_limit_for_a_server_without_prices_is_refused_before_anything_is_asked(tmp_path, capsys):
    server = "--labeler.backend=rlaif_pl.labeling.EndpointBackend"
    words = ["label", "--pairs=tiny_tldr/pairs", f"--out={tmp_path}", "--max_cost=5"]
    words += ["--labeler=rlaif_pl.labeling.PairwiseLabeler", server]
    words += ["--labeler.backend.base_url=http://127.0.0.1:9/v1", "--labeler.backend.model=m"]
    assert cli.main(words) == 1
    assert "expected a price for max_cost 5" in capsys.readouterr().err


def test_a_limit_below_zero_is_refused():
    with pytest.raises(ValueError, match="max_cost"):
        BudgetTracker(-1.0)


def rationale_then_verdict(pairs, ask):
    """Two rounds a pair: a text of at most 10 tokens, then a verdict after that text."""
    firsts = [GenerateRequest(Question(pair.prompt), Decoding(max_tokens=10)) for pair in pairs]
    texts = ask(firsts)
    ask([ChoiceRequest(Question(pair.prompt + reply.text), ("1", "2"))
         for pair, reply in zip(pairs, texts, strict=True)])  # fmt: skip


class Judging(ModelLabeler):
    """Asks what a function of pairs and ``ask`` asks, of nobody; free, or at a price."""

    strategy = "judging"
    prompt_version = "1"

    def __init__(self, judge, price=None):
        super().__init__(SimpleNamespace(fingerprint="nobody", price=price), 1.0)
        self.judge_pairs = judge

    def judge(self, pairs, ask):
        return self.judge_pairs(pairs, ask)


def test_a_projection_writes_the_calls_out_for_a_sample():
    # prompts of 40 characters: 10 tokens to write the text, 10 + 10 to judge it, 10 + 1 written
    pairs = [Preference(f"{n:40}", "a", "b", "g") for n in range(100)]
    found = estimate_cost(Judging(rationale_then_verdict, Price(1.0, 2.0)), pairs, sample=20)
    assert (found.pairs, found.sampled, found.calls, found.rounds) == (100, 20, 200, 2)
    assert (found.read, found.written) == (3000, 1100)
    assert found.cost_usd == pytest.approx((3000 + 2 * 1100) / 1e6)
    assert "about 200 calls in 2 round(s)" in found.line()


def test_a_projection_counts_calls_that_pairs_share_once():
    # 200 prompts with 4 responses each: 6 pairs a prompt, and 2 rankings of its responses
    pairs = [Preference(str(n), *both, "g") for n in range(200) for both in combinations("abcd", 2)]
    found = estimate_cost(ListwiseLabeler(once().backend), pairs)
    assert (found.pairs, found.sampled, found.calls) == (1200, 120, 400)


@pytest.mark.parametrize("count", [1, 20, 21, 39, 59, 1000])
def test_a_projection_looks_at_prompts_from_the_first_to_the_last(count):
    seen = []
    pairs = [Preference(str(n), "a", "b", "g") for n in range(count)]
    judge = Judging(lambda chosen, _: seen.extend(int(pair.prompt) for pair in chosen))
    estimate_cost(judge, pairs, sample=20)
    assert len(set(seen)) == min(count, 20)
    gaps = [b - a for a, b in pairwise([*seen, count])]
    assert max(gaps) - min(gaps) <= 1
    assert seen[0] == 0


def test_a_projection_of_one_pair_at_most_takes_one():
    pairs = [Preference("p", "a", "b", "g")] * 9
    assert estimate_cost(Judging(rationale_then_verdict), pairs, sample=1).calls == 18


def test_nothing_to_label_is_projected_to_nothing():
    assert estimate_cost(Judging(rationale_then_verdict), []).calls == 0


def ask_once(pairs, ask):
    """One call of 40 characters a pair."""
    ask([ChoiceRequest(Question(f"{pair.prompt:40}"), ("1", "2")) for pair in pairs])


def once(price=None):
    return Judging(ask_once, price)


def test_an_ensemble_takes_what_its_members_take():
    pairs = [Preference(str(n), "a", "b", "g") for n in range(5)]
    found = estimate_cost(EnsembleLabeler([once(), once(Price(1.0, 0.0))]), pairs)
    assert (found.calls, found.rounds, found.read, found.written) == (10, 2, 100, 10)
    assert found.cost_usd == pytest.approx(50e-6)  # of the one with a price
    nested = EnsembleLabeler([once(), EnsembleLabeler([once(), once()])])
    assert (estimate_cost(nested, pairs).calls, estimate_cost(nested, pairs).cost_usd) == (15, None)
    assert "no price given" in estimate_cost(nested, pairs).line()
    assert estimate_cost(SimpleNamespace(), pairs) is None


def test_the_pairs_of_an_ensembles_projection_are_chosen_once(monkeypatch):
    looked_at = []
    whole = projection.key_codes
    monkeypatch.setattr(
        projection, "key_codes", lambda keys: whole(looked_at.append(key) or key for key in keys)
    )
    pairs = [Preference(str(n), "a", "b", "g") for n in range(1000)]
    found = estimate_cost(EnsembleLabeler([once(), once(), once()]), pairs)
    assert (found.pairs, found.sampled, found.calls) == (1000, 20, 3000)
    assert len(looked_at) == 1000


def test_a_few_pairs_stand_for_all():
    pairs = [Preference(str(n), "a", "b", "g") for n in range(2)]
    found = estimate_cost(once(Price(1.0, 0.0)), pairs, total=1000)
    assert (found.pairs, found.sampled, found.calls, found.read) == (1000, 2, 1000, 10_000)
    assert found.cost_usd == pytest.approx(0.01)


def test_a_price_is_given_where_the_back_end_has_none():
    # 5 calls of 10 tokens read: 50 tokens at 2 and at 1 USD a million
    pairs = [Preference(str(n), "a", "b", "g") for n in range(5)]
    assert estimate_cost(once(), pairs, Price(2.0, 0.0)).cost_usd == pytest.approx(1e-4)
    assert estimate_cost(once(Price(1.0, 0.0)), pairs, Price(2.0, 0.0)).cost_usd == pytest.approx(
        5e-5
    )


def test_the_pace_of_the_first_calls_tells_how_long_it_takes():
    # 100 calls of 10 read and 1 written. Loading takes 60 s; then 4 calls come every 12 s, all at once:
    # at the ninth 24 s and 8 calls have passed since the first, so 91 more at 3 s each are 273 s.
    pairs = [Preference(str(n), "a", "b", "g") for n in range(100)]
    now, lines = [0.0], []
    pace = ThroughputEstimator(estimate_cost(once(), pairs), lines.append, lambda: now[0])
    assert pace.line() == ""
    left = []
    for second in (60.0, 72.0, 84.0):
        now[0] = second
        for _ in range(4 if second < 84 else 1):
            pace.count(ChoiceRequest(Question("x" * 40), ("1", "2")), Response(written=1))
            left.append(pace.seconds_left())
    assert left[:4] == [math.inf] * 4
    assert left[4] == pytest.approx(95 * 3.0)
    assert left[8] == pytest.approx(91 * 3.0)
    assert lines == ["at the pace of the first calls about 4 min 45 s to go"]
