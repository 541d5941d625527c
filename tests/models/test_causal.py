import copy

import pytest
import torch

from rlaif_pl.engine.decoder_layers import decoder_of
from rlaif_pl.engine.response_batch import assemble
from rlaif_pl.engine.runner import split
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.engine.score import CappedHead, token_logprobs
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.model_info import model_info
from rlaif_pl.text import Template

PROMPTS = ["the dog sat", "a cat"]
RESPONSES = [["a dog", "the cat sat on the mat"], ["cat", "b"]]


def build(model, tokenizer, trunk_layers):
    head, config = model.get_output_embeddings(), copy.deepcopy(model.config)
    trunk, top = split(decoder_of(model), trunk_layers)
    info = model_info("tiny", tokenizer, model, config.to_dict())
    return CausalModel(trunk, top, head, tokenizer, Template(), config, info)


def plain_logprobs(model, tokenizer, prompt, response, temperature):
    """One text through the transformers model itself, logits of every place."""
    before = tokenizer(Template().render(prompt)).input_ids
    after = [*tokenizer(f" {response}").input_ids, tokenizer.eos_token_id]
    logits = model(input_ids=torch.tensor([before + after])).logits[0].float() / temperature
    logits = logits[:, : len(tokenizer)]  # other ids are never drawn
    table = logits.log_softmax(-1)
    return torch.stack([table[len(before) - 1 + j, token] for j, token in enumerate(after)])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(
    ("name", "trunk_layers"), [("llama", 0), ("llama", 2), ("qwen2", 3), ("gpt2", 0)]
)
def test_logprobs_equal_the_librarys_own(make_model, tokenizer, name, trunk_layers, temperature):
    causal = build(make_model(name), tokenizer, trunk_layers)
    batch = causal.encode(PROMPTS, RESPONSES)
    found = causal.logprobs(batch, params=SamplingParams(temperature=temperature))
    model = make_model(name)
    flat = [response for group in RESPONSES for response in group]
    for n, response in enumerate(flat):
        expected = plain_logprobs(model, tokenizer, PROMPTS[n // 2], response, temperature)
        torch.testing.assert_close(found[n, : len(expected)], expected, rtol=0, atol=1e-4)
        assert (found[n, len(expected) :] == 0).all()


def test_roles_can_start_from_one_trunk_pass(make_model, tokenizer):
    causal = build(make_model("llama"), tokenizer, 2)
    batch = causal.encode(PROMPTS, RESPONSES)
    below = causal.trunk_states(batch.inputs)
    assert torch.equal(causal.logprobs(batch, below), causal.logprobs(batch))


def test_a_uniform_head_by_hand():
    # Logits all 0 over 4 tokens: log P = -ln 4 = -1.386294 whatever the temperature, entropy ln 4.
    head = torch.nn.Linear(3, 4, bias=False)
    torch.nn.init.zeros_(head.weight)
    params = SamplingParams(temperature=0.5)
    found = token_logprobs(torch.randn(1, 3), head, torch.tensor([2]), params)
    torch.testing.assert_close(found.logprobs, torch.tensor([-1.386294]))
    torch.testing.assert_close(found.entropy, torch.tensor([1.386294]))


def plain_facts(hidden, head, tokens, temperature):
    """The same through all logits at once."""
    table = (head(hidden) / temperature).log_softmax(-1)
    return table.gather(1, tokens[:, None])[:, 0], -(table.exp() * table).sum(-1)


@pytest.mark.parametrize("trains_head", [False, True])
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("bias", [False, True])
def test_fused_facts_and_their_gradients_are_those_of_whole_logits(bias, cap, trains_head):
    head = torch.nn.Linear(8, 11, bias=bias).requires_grad_(trains_head)
    whole = head if cap is None else CappedHead(head, cap)
    hidden = torch.randn(15, 8, requires_grad=True)
    tokens = torch.randint(11, (15,))
    wanted = plain_facts(hidden, whole, tokens, 0.9)
    params = SamplingParams(temperature=0.9)
    found = token_logprobs(hidden, whole, tokens, params, entropy_gradient=True)
    inputs = [hidden, *(head.parameters() if trains_head else ())]
    weights = torch.randn(2, 15)
    results = []
    for facts in (wanted, found):
        loss = sum((x * w).sum() for x, w in zip(facts, weights, strict=True))
        results.append((*facts, *torch.autograd.grad(loss, inputs)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


def test_without_an_entropy_gradient_only_the_logprob_pulls():
    head = torch.nn.Linear(8, 11).requires_grad_(False)
    hidden = torch.randn(4, 8, requires_grad=True)
    found = token_logprobs(hidden, head, torch.zeros(4).long(), SamplingParams())
    assert found.logprobs.requires_grad
    assert not found.entropy.requires_grad


@pytest.mark.parametrize("top_k", [0, 2])
def test_nothing_to_score_gives_nothing(top_k):
    head, none = torch.nn.Linear(3, 4), torch.zeros(0, dtype=torch.int64)
    found = token_logprobs(torch.randn(0, 3), head, none, SamplingParams(top_k=top_k))
    assert found.logprobs.shape == found.entropy.shape == (0,)
    assert found.logprobs.dtype == found.entropy.dtype == torch.float32


def test_a_response_without_tokens_has_zeros_beside_others(make_model, tokenizer):
    causal = build(make_model("llama"), tokenizer, 0)
    batch = assemble([[3, 4]], [[5, 6], []], pad=0)
    found = causal.token_logprobs(causal.hidden(batch), batch)
    for values in found:
        assert values.shape == (2, 2)
        assert values[0].all()
        assert not values[1].any()


def test_a_text_ends_before_what_was_to_stop_it(make_model, tokenizer):
    causal = build(make_model("llama"), tokenizer, 0)
    row = tokenizer("the dog sat on a mat").input_ids
    assert causal.texts([row]) == ["the dog sat on a mat"]
    found = [
        causal.texts([row, [*row, causal.eos]], SamplingParams(stop=stop))
        for stop in ("sat", (" mat", "on"), "dog sat on a mat", "cat")
    ]
    whole = ["the dog sat on a mat"] * 2
    assert found == [["the dog"] * 2, ["the dog sat"] * 2, ["the"] * 2, whole]
    assert (
        causal.texts([row[:4], row[:4] + row[4:5]], SamplingParams(stop_token_ids=(row[4],)))
        == [tokenizer.decode(row[:4]).strip()] * 2
    )


def test_temperature_must_be_positive():
    one = torch.ones(1)
    with pytest.raises(ValueError, match="above 0"):
        token_logprobs(one[None], torch.nn.Linear(1, 2), one.long(), SamplingParams(temperature=0))
