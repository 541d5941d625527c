import hashlib

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import GenerationConfig

from rlaif_pl.models.drawing import draw, noise_seed, uniforms
from rlaif_pl.rl.sampling import sample

PROMPTS = [[40, 50, 60, 70, 80], [90], [33, 44, 55, 66, 77, 88, 99, 111], [120, 130]]
LENGTH = 12


def seeds_of(prompts, samples):
    return [noise_seed(7, prompt, k) for prompt in prompts for k in samples]


def draw_tokens(policy, which, samples, temperature=0.9, **more):
    settings = {"max_new_tokens": LENGTH, **more}
    result = sample(
        policy,
        [PROMPTS[n] for n in which],
        per_prompt=len(samples),
        temperature=temperature,
        seeds=seeds_of(which, samples),
        **settings,
    )
    rows = iter(zip(result.tokens, result.finished.tolist(), strict=True))
    return {(n, k): next(rows) for n in which for k in samples}


def end_early(policy):
    """Make a token that greedy decoding writes half way the end of the text."""
    policy.eos = -1
    tokens, finished = draw_tokens(policy, range(4), [0], temperature=0)[2, 0]
    assert not finished
    policy.eos = tokens[LENGTH // 2]


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize(
    ("name", "trunk_layers"), [("llama", 0), ("llama", 2), ("gpt2", 0), ("mistral", 2)]
)
def test_greedy_is_the_librarys_generate(policy_of, plain_of, name, trunk_layers, share_prefix):
    policy = policy_of(name, trunk_layers=trunk_layers, share_prefix=share_prefix)
    model = plain_of(name)
    limit = 8 if name == "mistral" else LENGTH  # its window has 16 places
    if name != "mistral":
        end_early(policy)
    found = draw_tokens(policy, range(4), [0, 1], temperature=0, max_new_tokens=limit)
    config = GenerationConfig(
        max_new_tokens=limit, do_sample=False, eos_token_id=policy.eos, pad_token_id=0
    )
    ended = 0
    for n, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        written = model.generate(ids, attention_mask=mask, generation_config=config)
        expected = written[0, len(prompt) :].tolist()
        is_finished = expected[-1] == policy.eos
        assert found[n, 0] == found[n, 1] == (expected, is_finished)
        ended += is_finished
    if name != "mistral":
        assert ended > 0  # rows left the batch while others went on


@pytest.mark.parametrize("trunk_layers", [0, 2])
def test_a_sample_depends_on_its_seed_alone(policy_of, trunk_layers):
    policy = policy_of(trunk_layers=trunk_layers)
    end_early(policy)
    whole = draw_tokens(policy, range(4), range(4))
    assert len({tuple(tokens) for tokens, _ in whole.values()}) == 16
    assert {finished for _, finished in whole.values()} == {True, False}
    reversed_order = draw_tokens(policy, [3, 2, 1, 0], [3, 0, 2, 1])
    pairs = {**draw_tokens(policy, [0, 2], [1, 2]), **draw_tokens(policy, [3, 1], [1, 2])}
    alone = {}
    for n in range(4):
        for k in range(4):
            alone |= draw_tokens(policy, [n], [k])
    for part in (reversed_order, pairs, alone):
        assert part == {key: whole[key] for key in part}


def test_a_longer_limit_only_goes_on(policy_of):
    policy = policy_of()
    short = draw_tokens(policy, range(4), range(2), max_new_tokens=5)
    for key, (tokens, _) in draw_tokens(policy, range(4), range(2)).items():
        assert tokens[:5] == short[key][0]


def test_a_text_is_finished_exactly_where_it_ends_in_eos(policy_of):
    policy = policy_of()
    end_early(policy)
    for tokens, finished in draw_tokens(policy, range(4), range(8)).values():
        assert finished == (tokens[-1] == policy.eos)
        assert policy.eos not in tokens[:-1]
        assert finished or len(tokens) == LENGTH


def test_eos_at_the_limit_is_an_end(policy_of):
    policy = policy_of()
    policy.eos = -1
    tokens, _ = draw_tokens(policy, [0], [0], temperature=0)[0, 0]
    place = next(n for n in range(1, LENGTH) if tokens[n] not in tokens[:n])
    policy.eos = tokens[place]
    for limit, expected in ((place + 1, True), (place, False)):
        found = draw_tokens(policy, [0], [0], temperature=0, max_new_tokens=limit)[0, 0]
        assert found == (tokens[:limit], expected)


def test_first_tokens_follow_the_models_softmax(policy_of, plain_of):
    policy, count = policy_of(), 4000
    result = sample(
        policy,
        [PROMPTS[0]],
        per_prompt=count,
        max_new_tokens=1,
        temperature=2.0,
        seeds=[noise_seed(0, "p", k) for k in range(count)],
    )
    with torch.no_grad():
        logits = plain_of("llama")(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1]
    expected = count * torch.softmax(logits.double() / 2, -1).numpy()
    found = np.bincount([tokens[0] for tokens in result.tokens], minlength=len(expected))
    often = expected >= 10
    assert often.sum() > 5
    observed = [*found[often], found[~often].sum()]
    predicted = [*expected[often], expected[~often].sum()]
    assert stats.chisquare(observed, predicted).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_tempered_softmax(temperature):
    logits = torch.tensor([0.3, -1.0, 1.2, 0.0, -2.0])
    count = 20_000
    uniform = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = draw(logits.expand(count, 5), uniform, temperature)
    expected = count * torch.softmax(logits.double() / temperature, -1)
    observed = torch.bincount(found, minlength=5)
    assert stats.chisquare(observed.numpy(), expected.numpy()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 0), (0.19, 0), (0.21, 1), (0.49, 1), (0.51, 2), (1 - 2**-53, 2)]
)
def test_a_draw_by_hand(uniform, token):
    # P = 0.2, 0.3, 0.5, cumulated 0.2, 0.5, 1.0: the first that is above the uniform.
    logits = torch.tensor([[0.2, 0.3, 0.5]]).log()
    assert draw(logits, torch.tensor([uniform], dtype=torch.float64), 1.0).item() == token


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
def test_an_impossible_token_is_never_drawn(uniform):
    logits = torch.full((3, 1000), -torch.inf)
    logits[0, 1:4] = torch.tensor([0.1, 0.2, 0.3])
    logits[1, 500:503] = torch.tensor([5.0, 1.0, 2.0])
    logits[2] = torch.randn(1000)
    logits[2, 900:] = -torch.inf
    found = draw(logits, torch.full((3,), uniform, dtype=torch.float64), 0.7)
    assert logits[torch.arange(3), found].isfinite().all()


def test_temperature_0_takes_the_most_likely():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert draw(logits, torch.tensor([0.99, 0.99]), 0).tolist() == [1, 0]


def test_a_negative_temperature_is_refused(policy_of):
    with pytest.raises(ValueError, match="at least 0, got -1"):
        draw_tokens(policy_of(), [0], [0], temperature=-1)


def test_seeds_are_the_hash_of_the_whole_key():
    digest = hashlib.blake2b(b"(3, 'sample', 'post 7', 2)", digest_size=8).digest()
    assert noise_seed(3, "sample", "post 7", 2) == int.from_bytes(digest, "little") // 2
    keys = [(s, p, k) for s in range(5) for p in ("a", "b", "1", 1) for k in range(20)]
    assert len({noise_seed(*key) for key in keys}) == len(keys)
    assert all(0 <= noise_seed(*key) < 2**63 for key in keys)


def test_uniforms_depend_on_the_seed_alone():
    torch.manual_seed(0)
    first = uniforms([3, 2**63 - 1, 3], 40)
    torch.manual_seed(1)
    assert torch.equal(uniforms([3], 17), first[:1, :17])
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    assert first.dtype == torch.float64
    assert ((first >= 0) & (first < 1)).all()


@pytest.mark.parametrize("count", [0, 5, 7])
def test_a_wrong_number_of_seeds_is_refused(policy_of, count):
    with pytest.raises(ValueError, match=f"expected 6 seeds, got {count}"):
        sample(
            policy_of(),
            PROMPTS[:3],
            per_prompt=2,
            max_new_tokens=2,
            temperature=1.0,
            seeds=list(range(count)),
        )


def test_texts_beyond_a_sliding_window_are_refused(policy_of):
    policy = policy_of("mistral")
    draw_tokens(policy, range(4), [0], max_new_tokens=8)  # 8 + 8 tokens just fit
    with pytest.raises(ValueError, match="sliding window of 16 tokens, got up to 17"):
        draw_tokens(policy, range(4), [0], max_new_tokens=9)


def test_an_eos_that_is_only_read_needs_a_place_in_the_window_too(policy_of):
    policy = policy_of("mistral", trunk_layers=2)
    draw_tokens(policy, range(4), [0], max_new_tokens=8, keep_trunk=True)
    draw_tokens(policy, range(4), [0], max_new_tokens=7, keep_trunk=True, to_eos=True)
    with pytest.raises(ValueError, match="got up to 17"):
        draw_tokens(policy, range(4), [0], max_new_tokens=8, keep_trunk=True, to_eos=True)


@pytest.mark.parametrize("to_eos", [False, True])
@pytest.mark.parametrize("trunk_layers", [0, 2])
def test_keeping_the_trunks_states_changes_no_token(policy_of, trunk_layers, to_eos):
    policy = policy_of(trunk_layers=trunk_layers)
    end_early(policy)
    found = draw_tokens(policy, range(4), range(4), keep_trunk=True, to_eos=to_eos)
    assert found == draw_tokens(policy, range(4), range(4))


def test_prompts_of_one_token_have_no_prefix_states_to_keep(policy_of):
    policy = policy_of(trunk_layers=2)
    settings = {"per_prompt": 1, "max_new_tokens": 4, "temperature": 1.0, "seeds": [1, 2]}
    kept = sample(policy, [[5], [6]], **settings, keep_trunk=True)
    assert kept.below is None
    assert kept.tokens == sample(policy, [[5], [6]], **settings).tokens


def test_texts_are_decoded_without_eos_and_outer_space(policy_of):
    policy = policy_of()
    rows = [policy.tokenizer(f" {text} ").input_ids for text in ("the cat", "", "a dog")]
    result = sample(
        policy, [[5]], per_prompt=1, max_new_tokens=1, temperature=0.0, seeds=[0]
    )._replace(tokens=[[*rows[0], policy.eos], [policy.eos], rows[2]])
    assert result.texts(policy) == ["the cat", "", "a dog"]


@pytest.mark.parametrize("trunk_layers", [0, 2])
def test_recomputed_activations_cost_no_cache_while_sampling(policy_of, trunk_layers):
    policy = policy_of(trunk_layers=trunk_layers, gradient_checkpointing=True)
    expected = draw_tokens(policy, range(4), range(2))
    policy.train()
    assert draw_tokens(policy, range(4), range(2)) == expected
    assert all(module.training for module in policy.modules())
