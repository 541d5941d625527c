import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlaif_pl.labeling.backends import LocalBackend
from rlaif_pl.labeling.calls import Response
from rlaif_pl.labeling.strategies.likelihood import LikelihoodLabeler
from rlaif_pl.labeling.strategies.likelihood_terms import split_template
from rlaif_pl.models.embedded import embedded_model_folder
from rlaif_pl.types import PointwiseLabeler, Preference, Provenance


def plain_scores(folder, prompts, responses):
    """One text at a time through the transformers model, all logits, no batch."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    scores = []
    for prompt, response in zip(prompts, responses, strict=True):
        before = tokenizer(f"TL;DR: {response}\n\nPOST:").input_ids
        after = tokenizer(f" {prompt.strip()}", add_special_tokens=False).input_ids
        with torch.no_grad():
            table = model(torch.tensor([before + after])).logits[0].log_softmax(-1)
        rows = torch.arange(len(before) - 1, len(before) + len(after) - 1)
        scores.append(table[rows, torch.tensor(after)].mean().item())
    return scores


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2"])
@pytest.mark.parametrize("batch_tokens", [1, 150, 4096])
def test_equals_a_plain_loop_however_it_is_batched(folders, pairs, name, batch_tokens):
    labeler = LikelihoodLabeler(LocalBackend(folders[name], batch_tokens=batch_tokens))
    prompts = [pair.prompt for pair in pairs] * 2
    responses = [pair.first for pair in pairs] + [pair.second for pair in pairs]
    expected = plain_scores(folders[name], prompts, responses)
    np.testing.assert_allclose(labeler.score(prompts, responses), expected, atol=1e-4, rtol=0)


def test_a_uniform_model_by_hand(folders):
    # Every logit is 0 over 320 tokens, so each token of the post costs ln 320 = 5.768321 nats,
    # whatever the response; the sum over the 3 bytes " ab" (no merge knows them) is 17.304963.
    def flat(**options):
        labeler = LikelihoodLabeler(folders["llama"], **options)
        labeler.backend.model.backbone.model.get_output_embeddings().weight.data.zero_()
        return labeler

    target = flat().backend.model.tokenizer(" xq").input_ids
    assert len(target) == 3
    assert flat().score(["xq"], ["a"])[0] == pytest.approx(-5.768321, abs=1e-5)
    assert flat(normalize="sum").score(["xq"], ["a"])[0] == pytest.approx(-17.304963, abs=1e-5)
    (judged,) = flat().label([Preference("xq", "a", "b", "g")])
    assert judged.p_first == pytest.approx(0.5)


def test_labels_follow_from_scores_and_temperature(folders, pairs):
    labeler = LikelihoodLabeler(folders["llama"], temperature=0.5)
    for pair, judged in zip(pairs, labeler.label(pairs), strict=True):
        first, second = labeler.score([pair.prompt] * 2, [pair.first, pair.second])
        assert judged.provenance.margin == pytest.approx(first - second)
        expected = 1 / (1 + math.exp(-(first - second) / 0.5))
        assert judged.p_first == pytest.approx(expected)
        assert judged.source == "ai"
        assert (judged.prompt, judged.first, judged.group) == (pair.prompt, pair.first, pair.group)
        assert judged.provenance.position_gap is None
        assert judged.provenance.strategy == "likelihood"
        assert judged.provenance.prompt_version == "reconstruction-1"
        assert judged.provenance.tokens > 0


@pytest.mark.parametrize("batch_tokens", [1, 4096])
@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_pmi_adds_what_the_prompt_does_for_the_response(
    folders, pairs, name, batch_tokens, plain_logprobs
):
    # Both responses of a prompt, and another prompt's: contexts shared by two rows and by one.
    mean_logprob = plain_logprobs(folders[name])
    prompts = [pairs[0].prompt, pairs[0].prompt, pairs[1].prompt]
    responses = [pairs[0].first, pairs[0].second, pairs[1].first]
    expected = [
        plain
        + 0.2
        * (
            mean_logprob(f"POST: {prompt.strip()}\n\nTL;DR:", f" {response.strip()}")
            - mean_logprob("TL;DR:", f" {response.strip()}")
        )
        for plain, prompt, response in zip(
            plain_scores(folders[name], prompts, responses), prompts, responses, strict=True
        )
    ]
    backend = LocalBackend(folders[name], batch_tokens=batch_tokens)
    labeler = LikelihoodLabeler(backend, pmi_weight=0.2)
    np.testing.assert_allclose(labeler.score(prompts, responses), expected, atol=1e-4, rtol=0)
    assert "pmi" in labeler.prompt_version
    assert labeler.fingerprint != LikelihoodLabeler(folders[name]).fingerprint


def test_with_pmi_an_empty_response_has_no_score(folders):
    (score,) = LikelihoodLabeler(folders["llama"], pmi_weight=0.2).details(["a post"], [""])
    assert (score.failure, math.isnan(score.margin)) == ("empty", True)


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_a_senseless_pmi_weight_is_refused(folders, weight):
    with pytest.raises(ValueError, match="pmi_weight must be finite"):
        LikelihoodLabeler(folders["llama"], pmi_weight=weight)


def test_swapping_the_responses_swaps_the_label(folders, pairs):
    labeler = LikelihoodLabeler(folders["llama"])
    swapped = [replace(pair, first=pair.second, second=pair.first) for pair in pairs]
    for one, other in zip(labeler.label(pairs), labeler.label(swapped), strict=True):
        assert one.p_first + other.p_first == pytest.approx(1.0)


def calls_of(labeler, prompts, responses):
    """Return what a labeler asks to score responses."""
    asked = []

    def ask(calls):
        asked.extend(calls)
        return labeler.ask(calls)

    labeler.details(prompts, responses, ask)
    return asked


def test_both_responses_are_scored_on_the_same_text(folders, pairs):
    labeler = LikelihoodLabeler(folders["llama"])
    one, other = calls_of(labeler, [pairs[0].prompt] * 2, ["x\n", "y"])
    assert one.target == other.target == " " + pairs[0].prompt.strip()
    assert (one.context, other.context) == ("TL;DR: x\n\nPOST:", "TL;DR: y\n\nPOST:")


def test_any_back_end_may_give_the_likelihoods_and_its_cost_is_counted():
    # -1 nat a token for the first response's context, -2 for the second's; 5 tokens each.
    class Fixed:
        fingerprint = "fixed"

        def answer(self, calls, done):
            for place, call in enumerate(calls):
                value = -1.0 if "good" in call.context else -2.0
                done(place, Response(logprobs=(value,) * 5, read=9, cost_usd=0.25))

    (judged,) = LikelihoodLabeler(Fixed(), temperature=0.5).label(
        [Preference("a post", "good", "bad", "g")]
    )
    assert judged.provenance.margin == pytest.approx(1.0)
    assert judged.p_first == pytest.approx(1 / (1 + math.exp(-2.0)))
    assert (judged.provenance.tokens, judged.provenance.cost_usd) == (18, 0.5)


def test_a_token_that_a_server_left_out_makes_no_label():
    class Forgetful:
        fingerprint = "forgetful"

        def answer(self, calls, done):
            for place, _ in enumerate(calls):
                done(place, Response(logprobs=(-1.0, None)))

    (judged,) = LikelihoodLabeler(Forgetful()).label([Preference("a post", "a", "b", "g")])
    assert (judged.p_first, judged.provenance.failure) == (None, "nonfinite")


def test_who_wrote_the_responses_is_kept(folders, pairs):
    pair = replace(pairs[0], provenance=Provenance(first_policy="sft", second_policy="person"))
    (judged,) = LikelihoodLabeler(folders["llama"]).label([pair])
    assert judged.provenance.first_policy == "sft"
    assert judged.provenance.second_policy == "person"


def test_each_text_is_read_once(folders, pairs):
    labeler = LikelihoodLabeler(folders["llama"])
    first = labeler.label(pairs * 2)
    labeler.backend.answer = lambda *_: pytest.fail("read again")
    assert labeler.label(pairs) == first[:3]


def test_unreadable_pairs_fail_with_a_reason_and_spare_the_others(folders, pairs):
    broken = [
        Preference("  ", "a", "b", "g"),
        Preference("the cat " * 300, "a", "b", "g"),
        pairs[1],
    ]
    judged = LikelihoodLabeler(folders["llama"]).label(broken)
    assert [row.provenance.failure for row in judged] == ["empty", "too_long", None]
    assert [row.p_first is None for row in judged] == [True, True, False]
    assert judged[0].source is None
    assert judged[0].provenance.margin is None


def test_a_score_that_is_no_number_is_not_a_label(folders, pairs):
    labeler = LikelihoodLabeler(folders["llama"])
    labeler.backend.model.backbone.model.model.norm.weight.data.fill_(math.nan)
    with pytest.warns(UserWarning, match="run the plain way"):
        judged = labeler.label(pairs)
    assert {row.provenance.failure for row in judged} == {"nonfinite"}
    assert all(row.p_first is None for row in judged)


def test_braces_in_texts_are_left_alone(folders):
    (call,) = calls_of(LikelihoodLabeler(folders["llama"]), ["see {response}"], ["{prompt}"])
    assert call.context + call.target == "TL;DR: {prompt}\n\nPOST: see {response}"


def test_prompts_are_cut_on_request_and_the_fingerprint_says_so(folders, pairs):
    whole = LikelihoodLabeler(folders["llama"])
    cut = LikelihoodLabeler(folders["llama"], max_prompt_words=3)
    expected = whole.score(["the dog sat"], ["a"])
    assert cut.score([pairs[0].prompt], ["a"]) == pytest.approx(expected)
    options = [{}, {"max_prompt_words": 3}, {"temperature": 2.0}, {"normalize": "sum"}]
    options += [{"template": "S: {response}\nT: {prompt}"}, {"pmi_weight": 0.2}]
    prints = {LikelihoodLabeler(folders["llama"], **each).fingerprint for each in options}
    prints.add(LikelihoodLabeler(LocalBackend(folders["llama"], num_layers=1)).fingerprint)
    assert len(prints) == len(options) + 1


def test_it_is_a_pointwise_labeler_and_loads_nothing_until_asked(folders):
    labeler = LikelihoodLabeler(folders["llama"])
    assert "backbone" not in vars(labeler.backend.model)
    assert isinstance(labeler, PointwiseLabeler)
    assert labeler.label([]) == []


@pytest.mark.parametrize("template", ["{prompt} {response}", "{prompt}", "{response} {prompt}."])
def test_a_template_that_cannot_be_scored_is_refused(template):
    with pytest.raises(ValueError, match="end with"):
        split_template(template)


def test_the_space_goes_with_the_scored_text():
    assert split_template("A {response} B: {prompt}") == ("A {response} B:", " {prompt}")
    assert split_template("A {response}\n\n{prompt}") == ("A {response}\n\n", "{prompt}")


@pytest.mark.parametrize(
    ("option", "match"),
    [({"temperature": 0.0}, "above 0"), ({"temperature": math.inf}, "above 0")]
    + [({"normalize": "mean"}, "'token' or 'sum'")]
    + [({"max_prompt_words": words}, "at least 1, or null") for words in (0, -1)],
)
def test_bad_options_are_refused(option, match):
    with pytest.raises(ValueError, match=match):
        LikelihoodLabeler("anything", **option)


def test_real_model_on_real_pairs_equals_a_plain_loop(real_data):
    try:
        folder = embedded_model_folder()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    rows = (real_data / "tldr_comparisons" / "batch13.json").read_text().splitlines()
    records = [json.loads(row) for row in rows]
    short = [r for r in records if len(r["info"]["post"].split()) < 80][:5]
    prompts = [r["info"]["post"] for r in short for _ in range(2)]
    responses = [s["text"].strip() for r in short for s in r["summaries"]]
    found = LikelihoodLabeler(LocalBackend(batch_tokens=600)).score(prompts, responses)
    expected = plain_scores(folder, prompts, responses)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def test_written_tokens_are_counted_apart_from_those_read():
    def answer(calls, done):  # a server that must write a token to tell likelihoods
        for place, _ in enumerate(calls):
            done(place, Response(logprobs=(-1.0,), read=10, written=1))

    labeler = LikelihoodLabeler(SimpleNamespace(fingerprint="server", answer=answer))
    (judged,) = labeler.label([Preference("a post", "one", "two", "p")])
    assert (judged.provenance.tokens, judged.provenance.written) == (22, 2)
