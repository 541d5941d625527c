"""Texts that share their prompt's keys, against whole forwards by transformers alone."""

import pytest
import torch

from rlaif_pl.engine.batch import Segment, pack_segments
from rlaif_pl.engine.decoder_layers import decoder_of
from rlaif_pl.engine.generation_state import EqualLengthState, PackedState

PROMPTS = [[40, 50, 60, 70, 80], [90], [33, 44, 55, 66, 77, 88, 99, 111]]
SAMPLES = 3
# A token a step for each of the nine texts; after the second step texts 0, 4, 5 and 8 go on.
TOKENS = torch.arange(10, 10 + 9 * 4).view(4, 9)
STAY = [0, 4, 5, 8]


def packed(model, samples=SAMPLES, **options):
    ids = torch.tensor([token for prompt in PROMPTS for token in prompt[:-1]])
    batch = pack_segments([[Segment(len(prompt) - 1) for prompt in PROMPTS]], "cpu")
    leaves = [n for n in range(len(PROMPTS)) for _ in range(samples)]
    return PackedState(model, ids, batch, leaves, 4, **options)


def first_tokens(samples=SAMPLES):
    return torch.tensor([prompt[-1] for prompt in PROMPTS]).repeat_interleave(samples)


def written(state):
    """Logits after every text's last token, a mapping a step."""
    rows, found = torch.arange(9), []
    token = first_tokens()
    for step in range(4):
        logits = state.next_logits(state.forward_trunk(token))
        found.append(dict(zip(rows.tolist(), logits, strict=True)))
        token = TOKENS[step][rows]
        if step == 1:
            keep = torch.tensor(STAY)
            state.select_rows(STAY, keep)
            rows, token = rows[keep], token[keep]
    return found


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "trunk_layers", "window"),
    [("llama", 0, None), ("llama", 2, None), ("gpt2", 0, None), ("gemma2", 2, 4)],
)
def test_logits_are_those_of_whole_texts(model_of, plain_of, name, trunk_layers, window):
    plain = plain_of(name, window)
    state = packed(model_of(name, window, trunk_layers=trunk_layers))
    for step, logits in enumerate(written(state)):
        assert list(logits) == (list(range(9)) if step < 2 else STAY)
        for text, found in logits.items():
            ids = torch.tensor([[*PROMPTS[text // SAMPLES], *TOKENS[:step, text].tolist()]])
            expected = plain(input_ids=ids, use_cache=False).logits[0, -1]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("caches", [True, False])
@pytest.mark.parametrize(("name", "trunk_layers"), [("llama", 2), ("gpt_neo", 0)])
def test_prompts_of_one_length_go_on_without_packing(
    model_of, plain_of, monkeypatch, name, trunk_layers, caches
):
    model, plain = model_of(name, trunk_layers=trunk_layers), plain_of(name)
    if not caches:
        for runner in filter(None, (model.trunk, model.top)):
            found = runner.capabilities._replace(caches=False)
            monkeypatch.setattr(type(runner), "capabilities", found)
    prompts = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12], [3, 4, 5, 6]])
    state = EqualLengthState(model, prompts[:, :-1])
    assert (state.caches is not None) is caches
    token, alive, texts = prompts[:, -1], [0, 1, 2], prompts.tolist()
    for step in range(4):
        logits = state.next_logits(state.forward_trunk(token))
        for row, found in zip(alive, logits, strict=True):
            expected = plain(input_ids=torch.tensor([texts[row]])).logits[0, -1]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
            texts[row].append(20 + 3 * row + step)
        if step == 1:
            state.select_rows([0, 2], torch.tensor([0, 2]))
            alive = [0, 2]
        token = torch.tensor([texts[row][-1] for row in alive])


@torch.no_grad()
def test_a_prompt_is_held_once_and_each_text_has_room_for_its_own(model_of):
    model = model_of()
    layers, width = model.top.num_layers, 2 * 2 * 8  # keys and values of 2 heads of 8
    sizes = []
    for samples in (1, 16):
        state = packed(model, samples)
        (cache,) = state.caches
        held = [cache.prefilled[layer] for layer in range(layers)]
        assert sum(k.numel() + v.numel() for k, v in held) == layers * 11 * width
        state.next_logits(state.forward_trunk(torch.full((3 * samples,), 5)))
        sizes.append(sum(k.numel() + v.numel() for k, v in cache._own.values()))
    assert sizes == [layers * 3 * n * 4 * width for n in (1, 16)]


@torch.no_grad()
def test_of_prompts_the_last_layer_computes_keys_and_values_alone(model_of):
    model, counts = model_of(), {}
    assert model.top.capabilities.decodes
    last = model.top.decoder.layers[-1]
    for name, part in {**dict(last.self_attn.named_children()), "mlp": last.mlp}.items():
        part.register_forward_hook(lambda _, i, __, n=name: counts.update({n: i[0].shape[-2]}))
    packed(model)
    assert counts == {"q_proj": 0, "k_proj": 11, "v_proj": 11, "o_proj": 0, "mlp": 0}


@torch.no_grad()
def test_the_trunks_states_are_those_of_the_texts(model_of, plain_of):
    model = model_of(trunk_layers=2)
    state = packed(model, keep_trunk=True)
    written(state)
    kept = state.trunk_states()
    hidden = decoder_of(plain_of())(
        input_ids=torch.tensor([[*PROMPTS[2], *TOKENS[:3, 8].tolist()]]), output_hidden_states=True
    ).hidden_states[2][0]
    # 4 + 0 + 7 tokens of prompts, then four columns of each text
    torch.testing.assert_close(kept.states[4:11], hidden[:7], rtol=1e-4, atol=1e-4)
    start = kept.starts[8]
    assert kept.starts == [11 + 4 * n for n in range(9)]
    torch.testing.assert_close(kept.states[start : start + 4], hidden[7:], rtol=1e-4, atol=1e-4)
