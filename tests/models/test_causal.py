import copy

import pytest
import torch

from rlaif_pl.models.causal import LOGIT_ROWS, CausalModel, taken_logprobs
from rlaif_pl.models.stack import decoder_of, split
from rlaif_pl.text import Template

PROMPTS = ["the dog sat", "a cat"]
RESPONSES = [["a dog", "the cat sat on the mat"], ["cat", "b"]]


def build(model, tokenizer, trunk_layers):
    head, config = model.get_output_embeddings(), copy.deepcopy(model.config)
    trunk, top = split(decoder_of(model), trunk_layers)
    return CausalModel(trunk, top, head, tokenizer, Template(), config)


def plain_logprobs(model, tokenizer, prompt, response, temperature):
    """One text through the transformers model itself, logits of every place."""
    before = tokenizer(Template().render(prompt)).input_ids
    after = [*tokenizer(f" {response}").input_ids, tokenizer.eos_token_id]
    logits = model(input_ids=torch.tensor([before + after])).logits[0].float() / temperature
    table = logits.log_softmax(-1)
    return torch.stack([table[len(before) - 1 + j, token] for j, token in enumerate(after)])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(
    ("name", "trunk_layers"), [("llama", 0), ("llama", 2), ("qwen2", 3), ("gpt2", 0)]
)
def test_logprobs_equal_the_librarys_own(make_model, tokenizer, name, trunk_layers, temperature):
    causal = build(make_model(name), tokenizer, trunk_layers)
    batch = causal.encode(PROMPTS, RESPONSES)
    found = causal.logprobs(batch, temperature=temperature)
    model = make_model(name)
    flat = [response for group in RESPONSES for response in group]
    for n, response in enumerate(flat):
        expected = plain_logprobs(model, tokenizer, PROMPTS[n // 2], response, temperature)
        torch.testing.assert_close(found[n, : len(expected)], expected, rtol=0, atol=1e-4)
        assert (found[n, len(expected) :] == 0).all()


def test_roles_can_start_from_one_trunk_pass(make_model, tokenizer):
    causal = build(make_model("llama"), tokenizer, 2)
    batch = causal.encode(PROMPTS, RESPONSES)
    below = causal.trunk_states(batch)
    assert torch.equal(causal.logprobs(batch, below), causal.logprobs(batch))


def test_a_uniform_head_by_hand():
    # Logits all 0 over 4 tokens: log P = -ln 4 = -1.386294 whatever the temperature.
    head = torch.nn.Linear(3, 4, bias=False)
    torch.nn.init.zeros_(head.weight)
    is_real = torch.tensor([[True, False]])
    found = taken_logprobs(torch.randn(1, 2, 3), head, torch.tensor([[2, 0]]), is_real, 0.5)
    torch.testing.assert_close(found, torch.tensor([[-1.386294, 0.0]]))


def test_chunked_rows_and_gradients_equal_the_whole():
    torch.manual_seed(0)
    rows = LOGIT_ROWS + 7  # two chunks
    head = torch.nn.Linear(8, 11, bias=False)
    hidden = torch.randn(1, rows, 8, requires_grad=True)
    tokens = torch.randint(11, (1, rows))
    is_real = torch.rand(1, rows) > 0.1
    is_real[:, :LOGIT_ROWS] = True
    table = (head(hidden) / 0.9).log_softmax(-1).gather(2, tokens[..., None])[..., 0]
    expected = torch.where(is_real, table, 0.0)
    found = taken_logprobs(hidden, head, tokens, is_real, 0.9)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(1, rows)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), hidden, retain_graph=True)
    (got,) = torch.autograd.grad((found * weights).sum(), hidden)
    torch.testing.assert_close(got, wanted)


def test_nothing_to_score_gives_zeros():
    head = torch.nn.Linear(3, 4)
    none = torch.zeros(2, 5, dtype=torch.bool)
    found = taken_logprobs(torch.randn(2, 5, 3), head, torch.zeros(2, 5).long(), none, 1.0)
    assert found.shape == (2, 5)
    assert (found == 0).all()


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_must_be_positive(temperature):
    one = torch.ones(1, 1)
    with pytest.raises(ValueError, match="above 0"):
        taken_logprobs(one[None], torch.nn.Linear(1, 2), one.long(), one.bool(), temperature)
