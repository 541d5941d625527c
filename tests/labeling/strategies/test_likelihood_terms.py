import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlaif_pl.labeling.calls import LoglikelihoodRequest, Response
from rlaif_pl.labeling.strategies.likelihood import LikelihoodLabeler
from rlaif_pl.labeling.strategies.likelihood_terms import (
    LENGTH,
    WeightedTerm,
    shared_information,
    shared_words,
    word_set,
)
from rlaif_pl.text import title_of, titled
from rlaif_pl.types import Preference

POST = titled("The dog ate my cake.\nNow I am sad.", "My dog is bad", "pets")


class Unasked:
    """A back end for terms that cost no reading."""

    fingerprint = "unasked"

    def answer(self, calls, done):
        raise AssertionError(f"asked {calls}, {done}")


def test_shared_words_by_hand():
    # Of "Dog ate the dog and fled", the post has dog, ate, the: 9 characters, each word once.
    value = shared_words().value(POST, "Dog ate the dog and fled", [])
    assert value == pytest.approx(math.log(10))
    # Of these only "dog" stands in the title "My dog is bad": log(5 + 3) - log 5.
    title = shared_words(only_title=True, offset=5.0).value(POST, "Dog ate the dog and fled", [])
    assert title == pytest.approx(math.log(8 / 5))
    assert shared_words().value(POST, "", []) == 0
    assert shared_words(only_title=True).value("no title here", "no title here", []) == 0


def test_shared_information_by_hand():
    # "the" and "the dog" again add nothing new, "fled" is not in the post; a reply's tokens add up.
    term = shared_information()
    calls = term.calls(POST, 'The "dog" ate the dog and fled.')
    assert calls == [
        LoglikelihoodRequest("TL;DR:", " The"),
        LoglikelihoodRequest('TL;DR: The "', "dog"),
        LoglikelihoodRequest('TL;DR: The "dog"', " ate"),
    ]
    replies = [
        Response(logprobs=(-4.0,)),
        Response(logprobs=(-1.0, -8.0)),
        Response(logprobs=(-1.0,)),
    ]
    assert term.value(POST, "", replies) == pytest.approx(math.log(1 + (2 + 3 + 1) / 2))
    assert term.calls(POST, "") == []
    assert term.value(POST, "", []) == 0
    assert math.isnan(term.value(POST, "", [Response(logprobs=(None,))]))


def test_length_by_hand():
    assert LENGTH.value("post", "abcdefghi", [Response()]) == pytest.approx(math.log(10))


def test_words_and_titles():
    assert word_set("It's a cat, a CAT!") == {"it's", "a", "cat"}
    assert title_of(POST) == "My dog is bad"
    assert title_of("no line that begins with TITLE: x") is None
    assert title_of("TITLE:\nPOST: an empty one") is None


def test_terms_without_calls_ask_nothing_and_swap():
    terms = [WeightedTerm("shared_words"), WeightedTerm("title_words", 0.5)]
    terms.append(WeightedTerm("length", -0.25))
    labeler = LikelihoodLabeler(Unasked(), temperature=0.5, terms=terms)
    (value,) = labeler.score([POST], ["Dog ate the dog and fled"])
    expected = math.log(10) + 0.5 * math.log(8 / 5) - 0.25 * math.log(25)
    assert value == pytest.approx(expected)
    pair = Preference(POST, "Dog ate the dog and fled", "I bake", "g")
    (one,) = labeler.label([pair])
    (other,) = labeler.label([Preference(POST, pair.second, pair.first, "g")])
    # "I bake" shares "i": log 2; nothing of the title; 6 characters.
    margin = expected - (math.log(2) - 0.25 * math.log(7))
    assert one.provenance.margin == pytest.approx(margin)
    assert one.p_first == pytest.approx(1 / (1 + math.exp(-margin / 0.5)))
    assert one.p_first + other.p_first == pytest.approx(1)
    assert one.provenance.tokens == 0
    assert one.provenance.failure is None


def test_a_mixed_sum_equals_a_plain_loop(folders, pairs, plain_logprobs):
    weights = {"reconstruction": 2.0, "likelihood": 0.4, "pmi": 0.3, "shared_words": 0.7}
    terms = [WeightedTerm(kind, weight) for kind, weight in weights.items()]
    labeler = LikelihoodLabeler(folders["llama"], terms=terms)
    mean_logprob = plain_logprobs(folders["llama"])
    expected = []
    for pair in pairs:
        prompt, response = pair.prompt.strip(), pair.first.strip()
        given = mean_logprob(f"POST: {prompt}\n\nTL;DR:", f" {response}")
        gain = given - mean_logprob("TL;DR:", f" {response}")
        shared = {w for w in word_set(response) if w in word_set(prompt)}
        expected.append(
            2 * mean_logprob(f"TL;DR: {response}\n\nPOST:", f" {prompt}")
            + 0.4 * given
            + 0.3 * gain
            + 0.7 * math.log(1 + sum(len(w) for w in shared))
        )
    found = labeler.score([pair.prompt for pair in pairs], [pair.first for pair in pairs])
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def test_information_of_a_model_equals_one_reading_of_the_whole_response(folders):
    # The surprisal of a word is the sum over its tokens in a single pass over the response.
    folder = folders["llama"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    response = "the cat sat on"
    pieces = [tokenizer("TL;DR:").input_ids]
    pieces += [tokenizer(f" {w}", add_special_tokens=False).input_ids for w in response.split()]
    ids = [token for piece in pieces for token in piece]
    with torch.no_grad():
        table = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    total, place = 0.0, len(pieces[0])
    for word, piece in zip(response.split(), pieces[1:], strict=True):
        rows = torch.arange(place, place + len(piece))
        place += len(piece)
        if word in ("cat", "on"):
            total += math.sqrt(-table[rows - 1, torch.tensor(ids)[rows]].sum().item())
    labeler = LikelihoodLabeler(folder, terms=[WeightedTerm("shared_information")])
    (value,) = labeler.score(["on a cat"], [response])
    assert value == pytest.approx(math.log(1 + total / 2), abs=1e-4)


def test_default_terms_are_those_of_the_older_options(folders):
    old = LikelihoodLabeler(folders["llama"], pmi_weight=0.2)
    same = [WeightedTerm("reconstruction"), WeightedTerm("pmi", 0.2)]
    new = LikelihoodLabeler(folders["llama"], terms=same)
    assert new.fingerprint == old.fingerprint
    other = LikelihoodLabeler(folders["llama"], terms=[*same, WeightedTerm("length", 0.1)])
    assert other.fingerprint != old.fingerprint


def test_senseless_terms_are_refused():
    with pytest.raises(ValueError, match="finite weight other than 0"):
        WeightedTerm("pmi", 0.0)
    with pytest.raises(ValueError, match="at least one term"):
        LikelihoodLabeler(Unasked(), terms=[])
    with pytest.raises(ValueError, match="not both"):
        LikelihoodLabeler(Unasked(), terms=[WeightedTerm("length")], pmi_weight=0.2)
    with pytest.raises(ValueError, match="kind of term among"):
        LikelihoodLabeler(Unasked(), terms=[WeightedTerm("lenght")])
