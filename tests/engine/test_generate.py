import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GenerationConfig

from rlaif_pl.engine import generate
from rlaif_pl.engine.generate import sample_responses
from rlaif_pl.engine.sampling import SamplingParams, StopStrings, sample_seed

PROMPTS = [[40, 50, 60, 70, 80], [90], [33, 44, 55, 66, 77, 88, 99, 111], [120, 130]]
LENGTH = 12
SOME_ENDS = set(range(0, 320, 17))  # about half of the texts draw one of them


def seeds_of(prompts, samples):
    return [sample_seed(7, prompt, k) for prompt in prompts for k in samples]


def draw_tokens(policy, which, samples, temperature=0.9, max_new_tokens=LENGTH, **more):
    params = SamplingParams(n=len(samples), max_new_tokens=max_new_tokens, temperature=temperature)
    prompts, seeds = [PROMPTS[n] for n in which], seeds_of(which, samples)
    result = sample_responses(policy, prompts, params, seeds, policy.end_ids, **more)
    rows = iter(zip(result.tokens, result.finished, strict=True))
    return {(n, k): next(rows) for n in which for k in samples}


def end_early(policy):
    """Make a token that greedy decoding writes half way the end of the text."""
    policy.end_ids = {-1}
    tokens, finished = draw_tokens(policy, range(4), [0], temperature=0)[2, 0]
    assert not finished
    policy.end_ids = {tokens[LENGTH // 2]}


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize(
    ("name", "trunk_layers", "window"),
    [
        ("llama", 0, None),
        ("llama", 2, None),
        ("gpt2", 0, None),
        ("gpt_neo", 0, None),
        ("mistral", 2, 5),
        ("gemma2", 0, 5),
    ],
)
def test_greedy_is_the_librarys_generate(model_of, plain_of, name, trunk_layers, window, packs):
    policy = model_of(name, window, trunk_layers=trunk_layers, packs=packs)
    model = plain_of(name, window)
    end_early(policy)
    found = draw_tokens(policy, range(4), [0, 1], temperature=0)
    config = GenerationConfig(
        max_new_tokens=LENGTH, do_sample=False, eos_token_id=[*policy.end_ids], pad_token_id=0
    )
    ended = 0
    for n, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        written = model.generate(ids, attention_mask=mask, generation_config=config)
        expected = written[0, len(prompt) :].tolist()
        is_finished = expected[-1] in policy.end_ids
        assert found[n, 0] == found[n, 1] == (expected, is_finished)
        ended += is_finished
    assert ended > 0  # rows left the batch while others went on


@pytest.mark.parametrize("trunk_layers", [0, 2])
def test_a_sample_depends_on_its_seed_alone(model_of, trunk_layers):
    policy = model_of(trunk_layers=trunk_layers)
    policy.end_ids = SOME_ENDS
    whole = draw_tokens(policy, range(4), range(4))
    assert len({tuple(tokens) for tokens, _ in whole.values()}) > 12  # some end at once
    assert {finished for _, finished in whole.values()} == {True, False}
    reversed_order = draw_tokens(policy, [3, 2, 1, 0], [3, 0, 2, 1])
    pairs = {**draw_tokens(policy, [0, 2], [1, 2]), **draw_tokens(policy, [3, 1], [1, 2])}
    alone = {}
    for n in range(4):
        for k in range(4):
            alone |= draw_tokens(policy, [n], [k])
    for part in (reversed_order, pairs, alone):
        assert part == {key: whole[key] for key in part}


def test_a_longer_limit_only_goes_on(model_of):
    policy = model_of()
    short = draw_tokens(policy, range(4), range(2), max_new_tokens=5)
    for key, (tokens, _) in draw_tokens(policy, range(4), range(2)).items():
        assert tokens[:5] == short[key][0]


def test_a_text_is_finished_exactly_where_it_ends_in_eos(model_of):
    policy = model_of()
    policy.end_ids = SOME_ENDS
    for tokens, finished in draw_tokens(policy, range(4), range(8)).values():
        assert finished == (tokens[-1] in policy.end_ids)
        assert not policy.end_ids & set(tokens[:-1])
        assert finished or len(tokens) == LENGTH


def test_eos_at_the_limit_is_an_end(model_of):
    policy = model_of()
    policy.end_ids = {-1}
    tokens, _ = draw_tokens(policy, [0], [0], temperature=0)[0, 0]
    place = next(n for n in range(1, LENGTH) if tokens[n] not in tokens[:n])
    policy.end_ids = {tokens[place]}
    for limit, expected in ((place + 1, True), (place, False)):
        found = draw_tokens(policy, [0], [0], temperature=0, max_new_tokens=limit)[0, 0]
        assert found == (tokens[:limit], expected)


def test_first_tokens_follow_the_models_softmax(model_of, plain_of):
    policy, count = model_of(), 4000
    params = SamplingParams(n=count, max_new_tokens=1, temperature=2.0)
    seeds = [sample_seed(0, "p", k) for k in range(count)]
    result = sample_responses(policy, [PROMPTS[0]], params, seeds, policy.end_ids)
    with torch.no_grad():
        logits = plain_of("llama")(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1]
    expected = count * torch.softmax(logits.double() / 2, -1).numpy()
    found = np.bincount([tokens[0] for tokens in result.tokens], minlength=len(expected))
    often = expected >= 10
    assert often.sum() > 5
    observed = [*found[often], found[~often].sum()]
    predicted = [*expected[often], expected[~often].sum()]
    assert stats.chisquare(observed, predicted).pvalue > 1e-3


@pytest.mark.parametrize("steps", [1, 4, 16])
def test_how_often_the_host_looks_changes_no_token(model_of, monkeypatch, steps):
    policy = model_of(trunk_layers=2)
    policy.end_ids = SOME_ENDS
    expected = draw_tokens(policy, range(4), range(4))
    monkeypatch.setattr(generate, "steps_per_sync", lambda _: steps)
    assert draw_tokens(policy, range(4), range(4)) == expected
    closed = draw_tokens(policy, range(4), range(4), keep_trunk=True, close_with=1)
    assert closed == expected


def test_every_end_token_ends_a_text(model_of):
    policy = model_of()
    policy.end_ids = set()
    whole = draw_tokens(policy, range(4), range(4))
    ends = {whole[0, 0][0][3], whole[1, 0][0][5], whole[2, 1][0][4]}
    policy.end_ids = ends
    found = draw_tokens(policy, range(4), range(4))
    for key, (tokens, _) in whole.items():
        place = next((n for n, token in enumerate(tokens) if token in ends), None)
        cut = tokens if place is None else tokens[: place + 1]
        assert found[key] == (cut, place is not None)
    assert len({finished for _, finished in found.values()}) == 2


def test_stop_token_ids_end_a_text_too(model_of):
    policy = model_of()
    tokens, _ = draw_tokens(policy, [0], [0], temperature=0)[0, 0]
    params = SamplingParams(max_new_tokens=LENGTH, temperature=0, stop_token_ids=(tokens[4],))
    found = sample_responses(policy, [PROMPTS[0]], params, [0], policy.end_ids)
    assert found.tokens == [tokens[: tokens.index(tokens[4]) + 1]]
    assert found.finished == [True]


def decode(tokens):
    return "".join(chr(60 + token % 60) for token in tokens)


def test_a_stop_string_ends_a_text_where_it_first_stands(model_of):
    policy = model_of()
    whole = draw_tokens(policy, [0, 1], [0], temperature=0)
    text = whole[0, 0][0]
    string = decode(text[3:6])
    params = SamplingParams(max_new_tokens=LENGTH, temperature=0, stop=(string,))
    checker = StopStrings(params.stop, decode)
    prompts = [PROMPTS[0], PROMPTS[1]]
    found = sample_responses(policy, prompts, params, [0, 0], policy.end_ids, stop=checker)
    end = decode(text).index(string) + len(string)
    assert found.tokens[0] == text[:end]
    assert found.finished[0]
    if string not in decode(whole[1, 0][0]):
        assert found.tokens[1] == whole[1, 0][0]
    with pytest.raises(ValueError, match="expected a stop checker"):
        sample_responses(policy, prompts, params, [0, 0], policy.end_ids)


@pytest.mark.parametrize("count", [0, 5, 7])
def test_a_wrong_number_of_seeds_is_refused(model_of, count):
    with pytest.raises(ValueError, match=f"expected 6 seeds, got {count}"):
        sample_responses(
            model_of(), PROMPTS[:3], SamplingParams(n=2, max_new_tokens=2), [*range(count)], {1}
        )


@pytest.mark.parametrize("close_with", [None, 1])
@pytest.mark.parametrize("trunk_layers", [0, 2])
def test_keeping_the_trunks_states_changes_no_token(model_of, trunk_layers, close_with):
    policy = model_of(trunk_layers=trunk_layers)
    policy.end_ids = SOME_ENDS
    found = draw_tokens(policy, range(4), range(4), keep_trunk=True, close_with=close_with)
    assert found == draw_tokens(policy, range(4), range(4))


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("trunk_layers", [0, 2])
def test_layers_that_recompute_are_left_alone_while_sampling(model_of, trunk_layers, packs):
    policy = model_of(trunk_layers=trunk_layers, packs=packs)
    expected = draw_tokens(policy, range(4), range(2))
    policy.train()
    assert draw_tokens(policy, range(4), range(2)) == expected
    assert all(module.training for module in policy.modules())


class Casts(TorchDispatchMode):
    """Counts the casts of trained weights."""

    def __init__(self, weights):
        super().__init__()
        self.weights, self.count = {id(weight) for weight in weights}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._to_copy.default and id(args[0]) in self.weights
        return func(*args, **(kwargs or {}))


def test_autocast_casts_a_trained_weight_once_a_rollout(model_of):
    model = model_of("llama")
    for weight in model.parameters():
        weight.requires_grad_()
    found, counts = [], []
    for length in (2, 9):
        params = SamplingParams(n=2, max_new_tokens=length)
        # as Lightning enters it
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            sample_responses(model, [[5, 6, 7]], params, [3, 4], [])
            with Casts(model.parameters()) as casts:
                found.append(sample_responses(model, [[5, 6, 7]], params, [3, 4], []).tokens)
            assert not torch.is_autocast_cache_enabled()
        counts.append(casts.count)
    assert counts[0] == counts[1] > 0
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=True):
        plain = sample_responses(model, [[5, 6, 7]], params, [3, 4], []).tokens
    assert plain == found[1]
