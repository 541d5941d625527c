"""Packed batches against each text alone: states, loss of a pair and gradients, by architecture."""

import warnings

import pytest
import torch
from torch.nn import functional as F

from rlaif_pl.engine import capabilities
from rlaif_pl.engine.attention import segments
from rlaif_pl.engine.decoder_layers import PREFIX, decoder_of
from rlaif_pl.engine.response_batch import assemble, hidden_states
from rlaif_pl.engine.runner import DecoderRunner
from rlaif_pl.models.adapters import Lora, clone

PROMPTS = [[3, 4, 5, 6, 7, 8, 9, 30, 31], [10, 11, 12], [20]]
RESPONSES = [[5, 6, 7, 1], [9, 1], [2, 1], [4, 4, 4, 4, 1], [1], [7, 8, 1]]
BATCH = assemble(PROMPTS, RESPONSES, pad=1)
LASTS = BATCH.places(BATCH.lengths.tolist())
# Windows of 4 tokens: the longest prompt has 9, so that prompts and responses both outgrow them.
MODELS = [
    *((name, None) for name in ("llama", "gpt2", "qwen2", "qwen3", "gemma2", "gemma3")),
    *((name, 4) for name in ("mistral", "gemma2", "gemma3")),
]
TARGETS = {"gpt2": ["c_attn", "c_proj", "c_fc"]}


def alone(stack, prompt, response):
    """State at EOS of one text, run by transformers without any of our code."""
    ids = torch.tensor([[*prompt, *response]])
    return stack.decoder(input_ids=ids, use_cache=False).last_hidden_state[0, -1]


def pair_loss(states, head):
    """``-log sigma(r1 - r2)``, the mean over the pairs."""
    rewards = (states @ head).view(-1, 2)
    return -F.logsigmoid(rewards[:, 0] - rewards[:, 1]).mean()


def trained(stack):
    return {name: p for name, p in stack.named_parameters() if p.requires_grad}


def gradients(stack, states):
    head = torch.linspace(-1, 1, states.shape[1])
    loss = pair_loss(states, head)
    stack.zero_grad()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in trained(stack).items()}


def build(make_model, name, window, way):
    """A stack that is trained whole, by adapters (away from 0), or with recomputation."""
    model = make_model(name, window)
    if way == "recompute":
        old = model.gradient_checkpointing_enable
        getattr(model, "activation_checkpointing_enable", old)({"use_reentrant": False})
    lora = Lora(r=2, target_modules=TARGETS.get(name, "all-linear")) if way == "lora" else None
    stack = clone(DecoderRunner(decoder_of(model)), lora)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in trained(stack).items():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    return stack.train(way == "recompute")


@pytest.mark.parametrize("way", ["whole", "lora", "recompute"])
@pytest.mark.parametrize(("name", "window"), MODELS)
def test_loss_and_gradients_equal_those_of_each_text_alone(make_model, name, window, way):
    stack = build(make_model, name, window, way)
    expected = torch.stack([alone(stack, PROMPTS[n // 2], r) for n, r in enumerate(RESPONSES)])
    loss, wanted = gradients(stack, expected)
    assert stack.capabilities.packs
    assert stack.recomputes is (way == "recompute")
    assert stack.capabilities.prunes
    found = hidden_states(stack, BATCH, places=LASTS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    packed_loss, got = gradients(stack, found)
    torch.testing.assert_close(packed_loss, loss, rtol=0, atol=1e-4)
    assert got.keys() == wanted.keys()
    for key, gradient in wanted.items():
        torch.testing.assert_close(got[key], gradient, rtol=0, atol=1e-4)
    assert max(gradient.abs().max().item() for gradient in wanted.values()) > 1e-2


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_keys_laid_beside_each_responses_own_give_the_same(make_model, monkeypatch, name):
    monkeypatch.setattr(segments, "is_supported", lambda *_: False)  # as on other devices
    stack = build(make_model, name, None, "whole")
    expected = torch.stack([alone(stack, PROMPTS[n // 2], r) for n, r in enumerate(RESPONSES)])
    _, wanted = gradients(stack, expected)
    found = hidden_states(stack, BATCH, places=LASTS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    _, got = gradients(stack, found)
    for key, gradient in wanted.items():
        torch.testing.assert_close(got[key], gradient, rtol=0, atol=1e-4)


def random_row(generator, length):
    return torch.randint(2, 300, (length,), generator=generator).tolist()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("name", "window"), [("llama", None), ("gemma3", 4)])
def test_random_lengths_give_the_states_of_each_text_alone(make_model, name, window, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high, (1,), generator=generator))

    groups, repeat = draw(1, 4), draw(1, 4)
    prompts = [random_row(generator, draw(1, 20)) for _ in range(groups)]
    responses = [random_row(generator, draw(1, 12)) for _ in range(groups * repeat)]
    stack = DecoderRunner(decoder_of(make_model(name, window)))
    batch = assemble(prompts, responses, pad=1)
    found = hidden_states(stack, batch)
    assert len(found) == sum(map(len, prompts)) + sum(map(len, responses)) + len(prompts) * (
        repeat - 1
    )
    lasts = hidden_states(stack, batch)[batch.places(batch.lengths.tolist())]
    for n, response in enumerate(responses):
        prompt = prompts[n // repeat]
        expected = alone(stack, prompt, response)
        torch.testing.assert_close(lasts[n], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "window"), MODELS)
def test_packed_rows_on_every_device(make_model, name, window, device):
    stack = DecoderRunner(decoder_of(make_model(name, window)))
    expected = hidden_states(stack, BATCH)
    stack = DecoderRunner(decoder_of(make_model(name, window)).to(device))
    assert stack.capabilities.packs
    found = hidden_states(stack, BATCH.to(device))
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-3)


def test_a_wanted_state_is_the_same_when_all_are_wanted(make_model):
    stack = DecoderRunner(decoder_of(make_model("llama")))
    whole = hidden_states(stack, BATCH)
    torch.testing.assert_close(hidden_states(stack, BATCH, places=LASTS), whole[LASTS])
    ids = torch.tensor([PROMPTS[0][:-1]])
    states = stack.decoder(input_ids=ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(whole[: len(ids[0])], states[0], rtol=0, atol=1e-5)


def test_texts_of_one_row_do_not_see_each_other(make_model):
    stack = DecoderRunner(decoder_of(make_model("llama")))
    first = hidden_states(stack, BATCH)
    other = assemble([[40, 41], *PROMPTS[1:]], [[9, 9, 1], [8, 1], *RESPONSES[2:]], pad=1)
    second = hidden_states(stack, other)
    alike = sum(len(response) + 1 for response in RESPONSES[2:])
    torch.testing.assert_close(first[-alike:], second[-alike:], rtol=0, atol=1e-5)


def test_other_calls_of_a_prepared_model_are_as_before(make_model):
    decoder = decoder_of(make_model("gemma2", 4))
    ids, is_real = torch.tensor([[5, 6, 7, 8, 9, 2], [3, 4, 9, 9, 9, 9]]), torch.ones(2, 6).long()
    is_real[1, 2:] = 0
    before = decoder(input_ids=ids, attention_mask=is_real).last_hidden_state
    plain = decoder.config._attn_implementation
    assert DecoderRunner(decoder).capabilities.packs
    assert decoder.config._attn_implementation == plain
    assert decoder.layers[0].self_attn.config._attn_implementation == PREFIX + plain
    assert "packed" not in decoder.config.to_json_string()
    torch.testing.assert_close(
        decoder(input_ids=ids, attention_mask=is_real).last_hidden_state, before, rtol=0, atol=0
    )


def test_a_model_that_cannot_pack_runs_padded_and_says_so_once(make_model, monkeypatch):
    monkeypatch.setattr(capabilities, "_noticed", set())
    stack = DecoderRunner(decoder_of(make_model("gpt_neo")))  # computes its attention itself
    with pytest.warns(UserWarning, match="GPTNeoModel cannot run texts packed without padding"):
        found = hidden_states(stack, BATCH, places=LASTS)
    expected = torch.stack([alone(stack, PROMPTS[n // 2], r) for n, r in enumerate(RESPONSES)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hidden_states(DecoderRunner(decoder_of(make_model("gpt_neo"))), BATCH)


@pytest.mark.parametrize("kind", ["chunked_attention", "linear_attention"])
def test_layers_of_unknown_kinds_are_not_packed(make_model, monkeypatch, kind):
    monkeypatch.setattr(capabilities, "_noticed", set())
    decoder = decoder_of(make_model("llama"))
    decoder.config.layer_types = ["full_attention", kind, "full_attention", "full_attention"]
    with pytest.warns(UserWarning, match=f"layers of type {kind}"):
        assert not DecoderRunner(decoder).capabilities.packs


def test_attention_that_keeps_its_window_to_itself_is_not_packed(make_model, monkeypatch):
    monkeypatch.setattr(capabilities, "_noticed", set())
    decoder = decoder_of(make_model("llama"))  # passes no window on, whatever the config says
    decoder.config.sliding_window = 64
    with pytest.warns(UserWarning, match="does not say its sliding window"):
        assert not DecoderRunner(decoder).capabilities.packs


def test_a_layer_that_mixes_neighbors_is_found_out(make_model, monkeypatch):
    monkeypatch.setattr(capabilities, "_noticed", set())
    decoder = decoder_of(make_model("llama"))
    decoder.layers[1].register_forward_hook(lambda _, __, states: states + states.roll(1, 1))
    with pytest.warns(UserWarning, match="cannot run texts packed"):
        assert not DecoderRunner(decoder).capabilities.packs
    assert not decoder.layers[0].self_attn.config._attn_implementation.startswith(PREFIX)


@pytest.mark.parametrize(("name", "window"), MODELS)
def test_every_architecture_that_packs_decodes(make_model, name, window):
    can = DecoderRunner(decoder_of(make_model(name, window))).capabilities
    assert can.packs
    assert can.prunes
    assert can.decodes


def test_a_decoded_token_that_is_wrong_is_found_out(make_model):
    decoder = decoder_of(make_model("llama"))
    layer = decoder.layers[1]
    layer.register_forward_hook(lambda _, __, states: states * (0.9 if states.shape[1] == 1 else 1))
    can = DecoderRunner(decoder).capabilities
    assert can.packs
    assert not can.decodes
