import hashlib

import pytest
import torch
from scipy import stats

from rlaif_pl.engine.sampling import (
    BLOCK,
    SamplingParams,
    StopStrings,
    filter_logits,
    sample_from_logits,
    sample_noise,
    sample_seed,
)

LAST = 1 - 2**-24  # largest float32 below 1


def draw(logits, uniform, temperature=1.0, **filters):
    params = SamplingParams(temperature=temperature, **filters)
    return sample_from_logits(logits, torch.as_tensor(uniform), params)[0]


def test_seeds_are_the_hash_of_the_whole_key():
    digest = hashlib.blake2b(b"(3, 'sample', 'post 7', 2)", digest_size=8).digest()
    assert sample_seed(3, "sample", "post 7", 2) == int.from_bytes(digest, "little") // 2
    keys = [(s, p, k) for s in range(5) for p in ("a", "b", "1", 1) for k in range(20)]
    assert len({sample_seed(*key) for key in keys}) == len(keys)
    assert all(0 <= sample_seed(*key) < 2**63 for key in keys)


def test_noise_depends_on_the_seed_alone():
    torch.manual_seed(0)
    first = sample_noise([3, 2**63 - 1, 3], 40)
    torch.manual_seed(1)
    assert torch.equal(sample_noise([3], 17), first[:1, :17])
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    assert first.dtype == torch.float32
    assert ((first >= 0) & (first < 1)).all()


@pytest.mark.parametrize("vocabulary", [5, BLOCK, 3 * BLOCK + 7])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_tempered_softmax(temperature, vocabulary):
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(2))
    count = 20_000
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(1))
    found = draw(logits.expand(count, vocabulary), uniform, temperature)
    expected = count * torch.softmax(logits.double() / temperature, -1)
    observed = torch.bincount(found, minlength=vocabulary).double()
    often = expected >= 5
    pairs = [torch.cat([t[often], t[~often].sum()[None]]) for t in (observed, expected)]
    if often.all():
        pairs = [pair[:-1] for pair in pairs]
    assert stats.chisquare(*(pair.numpy() for pair in pairs)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 0), (0.19, 0), (0.21, 1), (0.49, 1), (0.51, 2), (LAST, 2)]
)
def test_a_draw_by_hand(uniform, token):
    # P = 0.2, 0.3, 0.5, cumulated 0.2, 0.5, 1.0: the first that is above the uniform.
    logits = torch.tensor([[0.2, 0.3, 0.5]]).log()
    assert draw(logits, [uniform]).item() == token


@pytest.mark.parametrize("uniform", [0.0, 0.5, LAST])
def test_an_impossible_token_is_never_drawn(uniform):
    logits = torch.full((3, 2000), -torch.inf)
    logits[0, 1:4] = torch.tensor([0.1, 0.2, 0.3])
    logits[1, 700:703] = torch.tensor([5.0, 1.0, 2.0])
    logits[2] = torch.randn(2000)
    logits[2, 1024:] = -torch.inf
    found = draw(logits, torch.full((3,), uniform), 0.7)
    assert logits[torch.arange(3), found].isfinite().all()


def test_temperature_0_takes_the_likeliest_and_heeds_no_noise():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert draw(logits, [0.99, 0.99], 0, top_k=2).tolist() == [1, 0]


def test_a_row_with_nan_is_said_to_be_invalid():
    logits = torch.tensor([[0.0, torch.nan], [0.0, 1.0], [torch.inf, 0.0]])
    for temperature in (0.0, 1.0):
        _, is_valid = sample_from_logits(
            logits, torch.tensor([0.5, 0.5, 0.5]), SamplingParams(temperature=temperature)
        )
        assert is_valid.tolist() == [False, True, False]


def test_only_the_top_k_are_drawn_in_proportion():
    # Of .4, .3, .2 and .1 the top two are 4/7 and 3/7; a draw of .57 is the first, .58 the second.
    logits = torch.tensor([0.2, 0.4, 0.1, 0.3]).log().expand(4, 4)
    assert draw(logits, [0.0, 0.57, 0.58, 0.999], top_k=2).tolist() == [1, 1, 3, 3]


def test_a_top_k_beyond_the_vocabulary_takes_all():
    for top_k in (0, 4, 100):
        assert draw(torch.zeros(2, 4), [0.1, 0.9], top_k=top_k).tolist() == [0, 3]


def kept(probabilities, **filters):
    logits = torch.tensor([probabilities]).log()
    return filter_logits(logits, SamplingParams(**filters))[0].isfinite().tolist()


def test_top_p_keeps_the_likeliest_that_reach_it():
    # Sorted .5, .3, .15, .05: .5 alone reaches .5; .8 takes two; .81 takes three.
    row = [0.15, 0.5, 0.05, 0.3]
    assert kept(row, top_p=0.5) == [False, True, False, False]
    assert kept(row, top_p=0.79) == [False, True, False, True]
    assert kept(row, top_p=0.81) == [True, True, False, True]
    assert kept(row, top_p=1.0) == [True, True, True, True]


def test_min_p_is_a_share_of_the_likeliest():
    assert kept([0.1, 0.6, 0.05, 0.25], min_p=0.4) == [False, True, False, True]


def test_the_last_token_of_a_nucleus_stays_whatever_the_temperature():
    logits = torch.randn(500, 7, generator=torch.Generator().manual_seed(1))
    for temperature in (0.3, 0.7, 0.9, 1.1):
        params = SamplingParams(temperature=temperature, top_p=0.6)
        found = filter_logits(logits, params).isfinite()
        chances, order = (logits / temperature).softmax(-1).sort(-1, descending=True)
        before = chances.cumsum(-1) - chances
        assert torch.equal(found.gather(1, order), before < 0.6)


def test_filters_look_at_what_temperature_makes():
    # At T = .5 .5, .3, .2 become .25, .09, .04 over .38: .66, .24, .11.
    row = [0.5, 0.3, 0.2]
    assert kept(row, top_p=0.65, temperature=1.0) == [True, True, False]
    assert kept(row, top_p=0.65, temperature=0.5) == [True, False, False]
    assert kept(row, min_p=0.5, temperature=1.0) == [True, True, False]
    assert kept(row, min_p=0.5, temperature=0.5) == [True, False, False]


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("filters", [{"top_k": 7}, {"top_k": 500}, {"top_k": 40, "min_p": 0.2}])
def test_with_top_k_no_more_is_sorted_than_it_leaves(top_p, filters, monkeypatch):
    logits = torch.randn(5, 600, generator=torch.Generator().manual_seed(1))
    logits[0] = logits[0].round()  # many are as likely as the last that is left
    params = SamplingParams(temperature=0.8, top_p=top_p, **filters)
    left = filter_logits(logits, SamplingParams(temperature=0.8, **filters))
    wanted = filter_logits(left, SamplingParams(temperature=0.8, top_p=top_p))
    monkeypatch.setattr(torch.Tensor, "sort", lambda *_, **__: pytest.fail("all are sorted"))
    assert torch.equal(filter_logits(logits, params), wanted)


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_a_large_vocabulary_is_cut_where_a_whole_sort_would(top_p):
    logits = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0)) * 2
    found = filter_logits(logits, SamplingParams(top_p=top_p)).isfinite()
    for row, mask in zip(logits.double(), found, strict=True):
        p, order = row.softmax(-1).sort(descending=True)
        count = int((p.cumsum(-1) < top_p).sum()) + 1
        assert set(order[:count].tolist()) == set(mask.nonzero().squeeze(1).tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n of at least 1, got 0"),
        ({"max_new_tokens": 0}, "max_new_tokens of at least 1"),
        ({"temperature": -1}, "temperature of at least 0, got -1"),
        ({"top_k": -1}, "top_k of at least 0, got -1"),
        ({"top_p": 0.0}, r"top_p above 0, got 0.0"),
        ({"top_p": 1.5}, r"top_p in \[0, 1\], got 1.5"),
        ({"min_p": 1.5}, r"min_p in \[0, 1\], got 1.5"),
        ({"stop": ("",)}, "stop strings that are not empty"),
        ({"stop": (".", r"\n\n")}, r"line breaks in stop, got a backslash and an n: \\n\\n; write"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SamplingParams(**options)


def test_a_step_decodes_the_end_of_a_text_alone():
    lengths = []

    def decode(tokens):
        lengths.append(len(tokens))
        return "".join(map(chr, tokens))

    checker = StopStrings(("ab", "c"), decode)
    text = [ord("x")] * 200
    assert not checker.is_met(text, 16)
    assert max(lengths) <= 4 * 2 + 4 + 16
    for met in ("ab", "c", "a" + "b" + "x" * 15):  # 16 tokens are new: the last of them the "b"
        assert checker.is_met(text + list(map(ord, met)), 16)
    assert not checker.is_met([*text, ord("a")], 1)
    assert checker.is_met([*text, ord("a"), ord("b")], 1)
    assert not checker.is_met([ord("x")], 1)


def test_a_stop_string_in_the_context_of_its_end_alone_is_none():
    """A tokenizer may decode the end of a text otherwise than the whole."""
    checker = StopStrings(("ab",), lambda tokens: "ab" if len(tokens) < 100 else "cd")
    assert not checker.is_met([5] * 100, 1)
    assert checker.is_met([5] * 3, 1)


def test_one_stop_string_needs_no_list():
    assert (
        SamplingParams(stop="###") == SamplingParams(stop=["###"]) == SamplingParams(stop=("###",))
    )


def test_a_strict_trainer_lets_floats_be_summed_up(monkeypatch):
    """On CUDA torch refuses cumulative sums of floats where algorithms are to be deterministic."""
    logits, params = torch.randn(3, 900), SamplingParams(top_p=0.9)
    expected, _ = sample_from_logits(logits, torch.rand(3), params)
    strict, own = [], torch.Tensor.cumsum

    def cumsum(self, *rest):
        strict.append(torch.are_deterministic_algorithms_enabled())
        return own(self, *rest)

    monkeypatch.setattr(torch.Tensor, "cumsum", cumsum)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    try:
        sample_from_logits(logits, torch.rand(3), params)
        filter_logits(logits, params)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(strict) >= 3
    assert not any(strict)
    assert len(expected) == 3
