"""Texts that share their prompt's keys, against whole forwards by transformers alone."""

import pytest
import torch

from rlaif_pl.rl.decoding import Decoding, SharedDecoding, decoding_of

PROMPTS = [[40, 50, 60, 70, 80], [90], [33, 44, 55, 66, 77, 88, 99, 111]]
SAMPLES = 3
# A token a step for each of the nine texts; after the second step texts 0, 4, 5 and 8 go on.
TOKENS = torch.arange(10, 10 + 9 * 4).view(4, 9)
STAY = [0, 4, 5, 8]


def written(decoding):
    """Final states of every text's last token, a list a step."""
    rows, states = torch.arange(9), []
    token = torch.tensor([prompt[-1] for prompt in PROMPTS]).repeat_interleave(SAMPLES)
    for step in range(4):
        states.append(dict(zip(rows.tolist(), decoding.upper(decoding.lower(token)), strict=True)))
        token = TOKENS[step][rows]
        if step == 1:
            keep = torch.tensor(STAY)
            decoding.keep(keep)
            rows, token = rows[keep], token[keep]
    return states


@torch.no_grad()
@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize(("name", "trunk_layers"), [("llama", 0), ("llama", 2), ("gpt2", 0)])
def test_states_are_those_of_whole_texts(policy_of, plain_of, name, trunk_layers, shares):
    policy, decoder = policy_of(name, trunk_layers=trunk_layers), plain_of(name).base_model
    policy.share_prefix = shares
    decoding = decoding_of(policy, PROMPTS, SAMPLES, 4)
    assert isinstance(decoding, SharedDecoding) is shares
    for step, states in enumerate(written(decoding)):
        assert list(states) == (list(range(9)) if step < 2 else STAY)
        for text, found in states.items():
            ids = torch.tensor([[*PROMPTS[text // SAMPLES], *TOKENS[:step, text].tolist()]])
            expected = decoder(input_ids=ids, use_cache=False).last_hidden_state[0, -1]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_prompt_is_held_once_and_each_text_has_room_for_its_own(policy_of):
    policy = policy_of()
    layers, width = policy.top.num_layers, 2 * 2 * 8  # keys and values of 2 heads of 8
    sizes = []
    for samples in (1, 16):
        (cache,) = decoding_of(policy, PROMPTS, samples, 4).caches
        held = [pair for pairs in cache._prompts.values() for pair in pairs]
        assert sum(k.numel() + v.numel() for k, v in held) == layers * 11 * width
        decoding = decoding_of(policy, PROMPTS, samples, 4)
        decoding.upper(decoding.lower(torch.full((3 * samples,), 5)))
        own = decoding.caches[0]._own.values()
        sizes.append(sum(k.numel() + v.numel() for k, v in own))
    assert sizes == [layers * 3 * n * 4 * width for n in (1, 16)]


@torch.no_grad()
def test_of_prompts_the_last_layer_computes_keys_and_values_alone(policy_of):
    policy, counts = policy_of(), {}
    assert policy.top.writes
    last = policy.top.decoder.layers[-1]
    for name, part in {**dict(last.self_attn.named_children()), "mlp": last.mlp}.items():
        part.register_forward_hook(lambda _, i, __, n=name: counts.update({n: i[0].shape[-2]}))
    decoding_of(policy, PROMPTS, 2, 4)
    assert counts == {"q_proj": 0, "k_proj": 11, "v_proj": 11, "o_proj": 0, "mlp": 0}


def test_prompts_of_one_token_have_nothing_to_share(policy_of):
    assert type(decoding_of(policy_of(), [[5], [6]], 2, 4)) is Decoding


@torch.no_grad()
def test_what_the_shared_way_does_not_compute_is_left_to_the_library(policy_of, monkeypatch):
    policy = policy_of()
    monkeypatch.setattr("rlaif_pl.models.prefix_attention.suits", lambda *_: False)
    assert type(decoding_of(policy, PROMPTS, SAMPLES, 4)) is Decoding
