import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlaif_pl.labeling.pairwise import Answer, PairwiseLabeler, combine, common_prefix, log_mean
from rlaif_pl.types import Labeler, Preference

BASE = "summarization-base-1"
ODDS = st.floats(-15, 15)


@pytest.fixture
def short_prompt(tmp_path):
    """A short prompt file, so that tiny models read little."""

    def write(asks="better"):
        path = tmp_path / f"short-{asks}.txt"
        path.write_text(
            f"asks: {asks}\n---\nText - {{prompt}}\n1 - {{first}}\n2 - {{second}}\n\nPreferred="
        )
        return str(path)

    return write


def plain_answer(folder, text):
    """Log-probabilities of "1" and "2" right after a text, from a forward of its own."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer(text).input_ids])).logits[0, -1].double()
    table = logits.log_softmax(-1)
    return [table[tokenizer(text + digit).input_ids[-1]].item() for digit in "12"]


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2"])
@pytest.mark.parametrize("batch_tokens", [1, 8192])
def test_equals_plain_forwards_of_both_orders(folders, pairs, short_prompt, name, batch_tokens):
    labeler = PairwiseLabeler(folders[name], prompt=short_prompt(), batch_tokens=batch_tokens)
    for pair, judged in zip(pairs, labeler.label(pairs), strict=True):
        text = f"Text - {pair.prompt.strip()}\n1 - {{}}\n2 - {{}}\n\nPreferred="
        a = plain_answer(folders[name], text.format(pair.first, pair.second))
        b = plain_answer(folders[name], text.format(pair.second, pair.first))
        p_ab, p_ba = expit(a[0] - a[1]), expit(b[1] - b[0])
        assert judged.p_first == pytest.approx((p_ab + p_ba) / 2, abs=1e-4)
        assert judged.provenance.order_gap == pytest.approx(abs(p_ab - p_ba), abs=1e-4)
        assert judged.provenance.same_slot == ((a[0] > a[1]) == (b[0] > b[1]))
        outside = 1 - sum(math.exp(x) for x in (*a, *b)) / 2
        assert judged.provenance.outside_mass == pytest.approx(outside, abs=1e-4)


def test_two_orders_by_hand():
    # Order 1: P(1) = .6, P(2) = .2 -> p(first) = .75. Order 2: P(1) = .3, P(2) = .3 -> .5.
    # Average .625, log-odds ln(.625/.375) = .510826; gap .25; outside (.2 + .4) / 2 = .3.
    forward = Answer(math.log(0.6), math.log(0.2))
    backward = Answer(math.log(0.3), math.log(0.29999999999))
    judgment = combine(forward, backward, asks_worse=False, tokens=9)
    assert judgment.margin == pytest.approx(0.510826, abs=1e-6)
    assert judgment.order_gap == pytest.approx(0.25)
    assert judgment.outside_mass == pytest.approx(0.3)
    assert judgment.same_slot is True  # slot 1 won both times, if barely
    assert judgment.tokens == 9


def test_a_verdict_for_the_worse_response_is_turned_around():
    answers = Answer(math.log(0.6), math.log(0.2)), Answer(math.log(0.1), math.log(0.3))
    better = combine(*answers, asks_worse=False, tokens=0)
    worse = combine(*answers, asks_worse=True, tokens=0)
    assert better.margin > 0
    assert worse.margin == pytest.approx(-better.margin)
    assert worse.order_gap == pytest.approx(better.order_gap, abs=1e-12)
    assert worse.same_slot is better.same_slot is False


def test_pure_position_bias_gives_one_half():
    # Slot 2 always wins with odds 9:1, whatever stands there.
    answer = Answer(math.log(0.1), math.log(0.9))
    judgment = combine(answer, answer, asks_worse=False, tokens=0)
    assert judgment.margin == pytest.approx(0.0)
    assert judgment.same_slot is True
    assert judgment.order_gap == pytest.approx(0.8)


@given(ODDS, ODDS)
def test_the_margin_is_the_log_odds_of_the_averaged_probability(one, two):
    margin = log_mean(one, two) - log_mean(-one, -two)
    assert margin == pytest.approx(logit((expit(one) + expit(two)) / 2), abs=1e-6)


@pytest.mark.parametrize("odds", [(1e3, 1e3), (-1e3, -1e3), (1e3, -1e3), (0.0, 1e4)])
def test_saturated_answers_stay_finite(odds):
    assert math.isfinite(log_mean(*odds) - log_mean(-odds[0], -odds[1]))


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_an_answer_that_is_no_number_is_not_a_label(bad):
    judgment = combine(Answer(bad, -1.0), Answer(-1.0, -1.0), asks_worse=False, tokens=3)
    assert judgment.failure == "nonfinite"


def test_swapping_the_responses_swaps_the_label(folders, pairs, short_prompt):
    labeler = PairwiseLabeler(folders["llama"], prompt=short_prompt())
    swapped = [replace(pair, first=pair.second, second=pair.first) for pair in pairs]
    for one, other in zip(labeler.label(pairs), labeler.label(swapped), strict=True):
        assert one.p_first + other.p_first == pytest.approx(1.0, abs=1e-5)
        assert one.provenance.order_gap == pytest.approx(other.provenance.order_gap, abs=1e-5)


def test_asking_for_the_worse_inverts_the_label(folders, pairs, short_prompt):
    better = PairwiseLabeler(folders["llama"], prompt=short_prompt("better")).label(pairs)
    worse = PairwiseLabeler(folders["llama"], prompt=short_prompt("worse")).label(pairs)
    for one, other in zip(better, worse, strict=True):
        assert one.p_first + other.p_first == pytest.approx(1.0, abs=1e-5)


def test_temperature_softens_the_margin(folders, pairs, short_prompt):
    hot = PairwiseLabeler(folders["llama"], prompt=short_prompt(), temperature=4.0).label(pairs)
    for judged in hot:
        assert judged.p_first == pytest.approx(expit(judged.provenance.margin / 4))


def test_a_long_question_fails_whole_and_spares_the_others(folders, pairs, short_prompt):
    labeler = PairwiseLabeler(folders["llama"], prompt=short_prompt())
    # One token more than the question itself, because the verdict has to fit in too.
    labeler.max_tokens = max(len(q.ids) for q in labeler.questions(pairs[1])) + 1
    judged = labeler.label(pairs)
    assert [row.provenance.failure for row in judged] == ["too_long", None, "too_long"]
    assert judged[0].p_first is None
    assert judged[0].source is None


def test_the_verdict_is_tokenized_with_its_question(folders):
    labeler = PairwiseLabeler(folders["llama"], prompt=BASE)
    pair = Preference("a", "b", "c", "g")
    question = labeler.questions(pair)[0]
    decode = labeler.model.tokenizer.decode
    assert decode([*question.ids, question.one]).endswith("Preferred Summary=1")
    assert decode([*question.ids, question.two]).endswith("Preferred Summary=2")


def test_a_chat_template_ends_in_the_opened_answer(folders, pairs):
    labeler = PairwiseLabeler(folders["llama"], prompt=BASE, chat_template=True)
    text = labeler.model.tokenizer.decode(labeler.questions(pairs[1])[0].ids)
    assert text.startswith("<s>user\nYou are an expert rater")
    assert text.endswith("</s><s>assistant\nPreferred Summary=")
    assert text.count("Preferred Summary=") == 1
    assert labeler.label(pairs[:1])[0].p_first is not None


def test_a_tokenizer_without_chat_template_is_told_apart(folders, pairs):
    labeler = PairwiseLabeler(folders["llama"], prompt=BASE, chat_template=True)
    labeler.model.tokenizer.chat_template = None
    with pytest.raises(ValueError, match="chat_template to false"):
        labeler.label(pairs)


def test_identical_responses_get_one_half(folders, short_prompt):
    labeler = PairwiseLabeler(folders["llama"], prompt=short_prompt())
    (judged,) = labeler.label([Preference("the cat", "a cat", "a cat", "g")])
    assert judged.p_first == pytest.approx(0.5, abs=1e-6)
    assert judged.provenance.same_slot is True


def test_settings_are_in_the_fingerprint(folders, short_prompt):
    options = [{"prompt": BASE}, {"prompt": "summarization-detailed-1"}]
    options += [{"prompt": short_prompt()}, {"prompt": BASE, "chat_template": True}]
    options += [{"prompt": BASE, "temperature": 2.0}, {"prompt": BASE, "max_tokens": 99}]
    labelers = [PairwiseLabeler(folders["llama"], **each) for each in options]
    assert len({labeler.fingerprint for labeler in labelers}) == len(options)
    assert isinstance(labelers[0], Labeler)


@pytest.mark.parametrize(
    ("first", "second", "length"),
    [([1, 2, 3], [1, 2, 4], 2), ([1, 2], [1, 2], 1), ([1, 2], [1], 0)],
)
def test_common_prefix_leaves_a_token_of_each(first, second, length):
    if length:
        assert common_prefix(first, second) == length
    else:
        with pytest.raises(ValueError, match="same token"):
            common_prefix(first, second)
