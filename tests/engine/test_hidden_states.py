import pytest
import torch

from rlaif_pl.engine.decoder_layers import decoder_of, split
from rlaif_pl.engine.hidden_states import hidden_states, positions_of
from rlaif_pl.engine.response_batch import assemble
from rlaif_pl.engine.runner import DecoderRunner

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


def continuations(model, trunk_layers, share_prefix):
    trunk, top = split(decoder_of(model), trunk_layers)
    assert all(stack.capabilities.packs for stack in (trunk, top) if stack is not None)
    below = None if trunk is None else hidden_states(trunk, BATCH, share_prefix=share_prefix)
    return hidden_states(top, BATCH, below, share_prefix).continuation


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize(
    ("name", "trunk_layers"),
    [(n, k) for n in ("llama", "qwen2", "gemma2", "gemma3") for k in (0, 2)] + [("gpt2", 0)],
)
def test_equals_a_plain_forward_of_each_text(make_model, name, trunk_layers, share_prefix):
    expected = plain(make_model(name))
    hidden = continuations(make_model(name), trunk_layers, share_prefix)
    for n, states in enumerate(expected):
        torch.testing.assert_close(hidden[n, : len(states)], states, rtol=0, atol=1e-4)


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3"])
def test_sliding_windows_hold(make_model, name, share_prefix):
    # The longest text has 13 tokens, three windows of 4.
    expected = plain(make_model(name, window=4))
    hidden = continuations(make_model(name, window=4), 2, share_prefix)
    for n, states in enumerate(expected):
        torch.testing.assert_close(hidden[n, : len(states)], states, rtol=0, atol=1e-4)


def gradients(model, loss_of):
    model.requires_grad_(True).zero_grad()
    loss_of(model).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_gradients_equal_those_of_plain_forwards(make_model):
    weights = torch.randn(6, 6, 32, generator=torch.Generator().manual_seed(1))

    def shared(model):
        hidden = hidden_states(DecoderRunner(model.model), BATCH).continuation
        return (hidden * weights * BATCH.is_real[..., None]).sum()

    def apart(model):
        return sum((h * weights[n, : len(h)]).sum() for n, h in enumerate(plain(model)))

    expected, found = gradients(make_model("llama"), apart), gradients(make_model("llama"), shared)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-4 * scale + 1e-6)


def test_other_texts_in_the_batch_do_not_matter(make_model):
    stack = DecoderRunner(decoder_of(make_model("llama")))
    alone = hidden_states(stack, assemble([PROMPTS[1]], RESPONSES[2:4], pad=1)).continuation
    together = hidden_states(stack, BATCH).continuation[2:4]
    torch.testing.assert_close(alone, together[:, : alone.shape[1]], rtol=0, atol=1e-5)


def test_positions_count_real_tokens():
    is_real = torch.tensor([[True, True, False, True], [False, True, True, False]])
    assert positions_of(is_real).tolist() == [[0, 1, 1, 2], [0, 0, 1, 1]]
