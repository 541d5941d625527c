import pytest
import torch
from unpacked import unpack

from rlaif_pl.engine.decoder_layers import decoder_of
from rlaif_pl.engine.response_batch import assemble, hidden_states, states_before
from rlaif_pl.engine.runner import DecoderRunner, split

PROMPTS = [[3, 4, 5, 6, 7, 8, 9, 30, 31], [10, 11, 12], [20]]
RESPONSES = [[5, 6, 7, 1], [9, 1], [2, 1], [4, 4, 4, 4, 1], [1], [7, 8, 1]]
BATCH = assemble(PROMPTS, RESPONSES, pad=1)


def plain(model):
    """Final states of each text from a forward of its own: last prompt token and response."""
    decoder, result = decoder_of(model), []
    for n, response in enumerate(RESPONSES):
        prompt = PROMPTS[n // 2]
        ids = torch.tensor([prompt + response])
        hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state[0]
        result.append(hidden[len(prompt) - 1 :])
    return result


def cut(states, batch=BATCH):
    """States of each continuation."""
    return states.split([*batch.prefix_lengths, *batch.continuation_lengths])[len(batch.prefixes) :]


def continuations(model, trunk_layers, packs):
    trunk, top = split(decoder_of(model), trunk_layers)
    for stack in filter(None, (trunk, top)):
        assert stack.capabilities.packs
        unpack(stack, packs)
    below = None if trunk is None else hidden_states(trunk, BATCH)
    return cut(hidden_states(top, BATCH, below))


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize(
    ("name", "trunk_layers"),
    [(n, k) for n in ("llama", "qwen2", "gemma2", "gemma3") for k in (0, 2)] + [("gpt2", 0)],
)
def test_equals_a_plain_forward_of_each_text(make_model, name, trunk_layers, packs):
    expected = plain(make_model(name))
    hidden = continuations(make_model(name), trunk_layers, packs)
    for n, states in enumerate(expected):
        torch.testing.assert_close(hidden[n], states, rtol=0, atol=1e-4)


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3"])
def test_sliding_windows_hold(make_model, name, packs):
    # The longest text has 13 tokens, three windows of 4.
    expected = plain(make_model(name, window=4))
    hidden = continuations(make_model(name, window=4), 2, packs)
    for n, states in enumerate(expected):
        torch.testing.assert_close(hidden[n], states, rtol=0, atol=1e-4)


def gradients(model, loss_of):
    model.requires_grad_(True).zero_grad()
    loss_of(model).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_gradients_equal_those_of_plain_forwards(make_model):
    weights = torch.randn(6, 6, 32, generator=torch.Generator().manual_seed(1))

    def shared(model):
        found = cut(hidden_states(DecoderRunner(model.model), BATCH))
        return sum((h * weights[n, : len(h)]).sum() for n, h in enumerate(found))

    def apart(model):
        return sum((h * weights[n, : len(h)]).sum() for n, h in enumerate(plain(model)))

    expected, found = gradients(make_model("llama"), apart), gradients(make_model("llama"), shared)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-4 * scale + 1e-6)


def test_other_texts_in_the_batch_do_not_matter(make_model):
    stack = DecoderRunner(decoder_of(make_model("llama")))
    few = assemble([PROMPTS[1]], RESPONSES[2:4], pad=1)
    alone, together = cut(hidden_states(stack, few), few), cut(hidden_states(stack, BATCH))[2:4]
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pads", [True, False])
def test_states_before_response_tokens_need_no_last_token(make_model, pads):
    stack = unpack(DecoderRunner(decoder_of(make_model("gpt2"))))
    unpacked = {key: can._replace(pads=pads) for key, can in stack._capabilities.items()}
    expected = torch.cat([states[:-1] for states in plain(make_model("gpt2"))])
    for capabilities in (unpacked, {}):  # position embeddings count within each text
        stack._capabilities = capabilities
        found = states_before(stack, BATCH)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
