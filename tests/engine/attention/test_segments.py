"""Attention of a packed batch against the plain definition: softmax over a text's own scores."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rlaif_pl.engine.attention import leaf, padding, segments
from rlaif_pl.engine.attention.leaf import (
    CUDA,
    MATH,
    Attended,
    Scoring,
    leaf_for,
    merge_attention_states,
)
from rlaif_pl.engine.attention.segments import KVCache
from rlaif_pl.engine.batch import Root, Segment, pack_segments

# Prefixes of 6, 0 and 1 tokens, three continuations each, and a third level below some of those.
LEVELS = [
    [Segment(6), Segment(0), Segment(1)],
    [
        Segment(n, parent)
        for parent, sizes in enumerate([(4, 1, 3), (2, 5, 1), (3, 3, 0)])
        for n in sizes
    ],
    [Segment(2, 0), Segment(1, 0), Segment(20, 4), Segment(3, 8)],
]
TOTAL = sum(segment.length for level in LEVELS for segment in level)
BATCH = pack_segments(LEVELS, "cpu")
ROOT = 5
HALVES = [torch.bfloat16, torch.float16]


def plain(query, key, value, scale, root=None, levels=LEVELS):
    """One text at a time, all of its scores at once, keys repeated for the heads that share them."""
    share = query.shape[1] // key.shape[1]
    begin = [] if root is None else [t.double() for t in root]
    result, start, above = [], 0, [[]]
    for level in levels:
        below = []
        for length, parent in level:
            own = list(range(start, start + length))
            places = above[parent] + own
            keys, values = (t[places].double() for t in (key, value))
            if begin:
                keys, values = torch.cat([begin[0], keys]), torch.cat([begin[1], values])
            keys, values = (t.repeat_interleave(share, 1).transpose(0, 1) for t in (keys, values))
            scores = scale * query[own].double().transpose(0, 1) @ keys.transpose(1, 2)
            ahead = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1 + keys.shape[1] - length)
            weights = scores.masked_fill(ahead, -torch.inf).softmax(-1)
            result.append((weights @ values).transpose(0, 1))
            below.append(places)
            start += length
        above = below
    return torch.cat(result)


def draw(heads, key_heads, dtype=torch.float32, total=TOTAL, size=8):
    generator = torch.Generator().manual_seed(3)
    shapes = [(total, count, size) for count in (heads, key_heads, key_heads)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.fixture(params=["fused", "math", "reference"])
def attend(request, monkeypatch):
    """Attention by torch's fused CPU kernel, by plain products, and text by text."""
    if request.param == "reference":
        return segments.attend_by_text
    if request.param == "math":
        monkeypatch.setattr(segments, "leaf_for", lambda _: leaf.MATH)
    return segments.attend


def test_two_responses_by_hand(attend):
    # One head of size 1, scale 1, all queries 0: a token weighs what it sees equally.
    # Prompt values 2, 4; first response 6; second 0, 9.
    value = torch.tensor([2.0, 4.0, 6.0, 0.0, 9.0]).view(5, 1, 1)
    batch = pack_segments([[Segment(2)], [Segment(1), Segment(2)]], "cpu")
    qkv = torch.zeros_like(value), torch.ones_like(value), value
    found = attend(qkv, batch, Scoring(1.0))
    # Means of 2; of 2, 4; of 2, 4, 6; of 2, 4, 0; of 2, 4, 0, 9.
    torch.testing.assert_close(found.flatten(), torch.tensor([2.0, 3.0, 4.0, 2.0, 3.75]))


def check_close(found, exact):
    """Hold float32 to 64 roundings of the largest number, whatever order a processor adds in."""
    largest = max(1.0, exact.abs().max().item())
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=2**-17 * largest)


@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2), (3, 1)])
def test_results_and_gradients_are_those_of_each_text_alone(attend, heads, key_heads, scale):
    tensors = draw(heads, key_heads)
    weights = torch.randn(TOTAL, heads, 8, generator=torch.Generator().manual_seed(4))
    given = [t.clone().requires_grad_() for t in tensors]
    found = attend(given, BATCH, Scoring(scale))
    gradients = torch.autograd.grad(found, given, weights)
    exact = [t.double().requires_grad_() for t in tensors]
    expected = plain(*exact, 8**-0.5 if scale is None else scale)
    wanted = torch.autograd.grad(expected, exact, weights.double())
    for one, other in zip((found, *gradients), (expected, *wanted), strict=True):
        check_close(one, other)


@pytest.mark.parametrize("most", [1, 100, 1000])
def test_plain_products_in_many_parts_give_the_same(most, monkeypatch):
    monkeypatch.setattr(segments, "leaf_for", lambda _: leaf.MATH)
    monkeypatch.setattr(padding, "MOST_SCORES", most)
    given = [t.double().requires_grad_() for t in draw(6, 2)]
    found = segments.attend(given, pack_segments(LEVELS, "cpu"))
    expected = plain(*given, 8**-0.5)
    weights = torch.randn(TOTAL, 6, 8, generator=torch.Generator().manual_seed(4)).double()
    pairs = [torch.autograd.grad(result, given, weights) for result in (found, expected)]
    torch.testing.assert_close((found, *pairs[0]), (expected, *pairs[1]))


class Made(TorchDispatchMode):
    """Counts the ops of a block, and the numbers of the largest tensor that one makes."""

    count = largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.count += 1
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.numel())
        return result


def test_plain_products_are_as_few_for_many_texts(monkeypatch):
    monkeypatch.setattr(segments, "leaf_for", lambda _: leaf.MATH)
    counts = []
    for prompts in (2, 64):
        levels = [
            [Segment(5 + n % 3) for n in range(prompts)],
            [Segment(1 + n % 4, n) for n in range(prompts)],
        ]
        batch = pack_segments(levels, "cpu")
        given = [t.requires_grad_() for t in draw(4, 2, total=len(batch))]
        with Made() as made:
            segments.attend(given, batch).sum().backward()
        counts.append(made.count)
    assert counts[1] == counts[0]


def test_plain_products_hold_few_scores_however_long_a_text_is(monkeypatch):
    monkeypatch.setattr(segments, "leaf_for", lambda _: leaf.MATH)
    monkeypatch.setattr(padding, "MOST_SCORES", 1 << 14)
    batch = pack_segments([[Segment(300), Segment(40)]], "cpu")
    given = [t.requires_grad_() for t in draw(4, 2, total=len(batch))]
    with Made() as made:
        segments.attend(given, batch).sum().backward()
    assert made.largest <= 1 << 14


def test_a_root_is_seen_by_every_token(attend):
    root = draw(6, 2, total=ROOT)[1:]
    batch = pack_segments(LEVELS, "cpu", Root(tuple(range(ROOT))))
    given = draw(6, 2)
    found = attend(given, batch, root=tuple(root))
    expected = plain(*given, 8**-0.5, root)
    check_close(found, expected)
    assert batch.positions.min() == ROOT
    assert batch.longest == BATCH.longest + ROOT


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)], ids=str)
def test_half_precision_rounds_and_no_more(attend, heads, dtype, device):
    tensors = draw(*heads, dtype)
    found = attend([t.to(device) for t in tensors], pack_segments(LEVELS, device))
    assert found.dtype == dtype
    torch.testing.assert_close(found.double().cpu(), plain(*tensors, 8**-0.5), rtol=0, atol=3e-2)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("short", [0, 256])
def test_gradients_of_half_precision_round_and_no_more(attend, short, dtype, device, monkeypatch):
    monkeypatch.setattr(leaf, "SHORT_KEYS", short)
    tensors = draw(4, 2, dtype)
    given = [t.to(device).requires_grad_() for t in tensors]
    batch = pack_segments(LEVELS, device)
    found = torch.autograd.grad(attend(given, batch).square().sum(), given)
    exact = [t.double().requires_grad_() for t in tensors]
    wanted = torch.autograd.grad(plain(*exact, 8**-0.5).square().sum(), exact)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == dtype
        assert (one.cpu() - other).abs().max() < 8 * 2**-8 * other.abs().max()


def test_prefixes_that_do_not_ask_change_nothing_else(attend):
    prefix = sum(segment.length for segment in LEVELS[0])
    results = []
    for batch in (BATCH, BATCH.continuations):
        given = [t.clone().requires_grad_() for t in draw(4, 2)]
        found = attend(given, batch)
        results.append((found, *torch.autograd.grad(found[prefix:].square().sum(), given)))
    assert not results[1][0][:prefix].any()
    results = [(one[0][prefix:], *one[1:]) for one in results]
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-6)


def test_keys_are_kept_once_whatever_the_number_of_continuations():
    batch = pack_segments([[Segment(40)], [Segment(5)] * 16], "cpu")
    query, key, value = (t.requires_grad_() for t in draw(6, 2, total=len(batch)))
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        segments.attend((query, key, value), batch)
    # queries and output of 6 heads, keys and values of 2, the log-sum-exp of 6; floats of 4 bytes
    assert sum(kept.values()) == 4 * len(batch) * (8 * (6 + 6 + 2 + 2) + 6)


def test_merging_with_no_keys_changes_nothing():
    one = Attended(torch.randn(3, 2, 4), torch.randn(3, 2))
    nothing = Attended(torch.zeros(3, 2, 4), torch.full((3, 2), -torch.inf))
    for pair in ((one, nothing), (nothing, one)):
        torch.testing.assert_close(merge_attention_states(*pair), one)
    assert not merge_attention_states(nothing, nothing).output.any()


@pytest.mark.parametrize(
    ("window", "cap", "expected"),
    [(None, None, True), (32, None, True), (24, None, False), (None, 30.0, False)],
)
def test_what_blocks_compute(window, cap, expected):
    # The longest text has 0 + 5 + 20 tokens.
    assert segments.is_supported(draw(4, 2), BATCH.longest, Scoring(None, window, cap)) is expected


def test_heads_of_different_sizes_are_left_to_the_reference():
    query, key, value = draw(4, 2)
    assert not segments.is_supported((query, key, value[..., :4]), BATCH.longest, Scoring())


def test_caches_of_dropped_texts_are_freed_layer_by_layer():
    """All layers' old keys beside all new ones would hold the caches twice."""
    cache = KVCache(pack_segments([[Segment(2), Segment(3)]], "cpu"))
    for layer in range(3):
        cache.prefilled[layer] = tuple(draw(2, 2, total=5)[1:])
    cache.fork([0, 1], 4)
    for layer in range(3):
        cache.append(layer, draw(2, 2, total=2), Scoring())
    old = [weakref.ref(t) for pair in cache._own.values() for t in pair]
    alive = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func == torch.ops.aten.index.Tensor:
                alive.append(sum(each() is not None for each in old))
            return func(*args, **(kwargs or {}))

    with Watch():
        cache.select_rows([1], torch.tensor([1]))
    assert alive == [6, 6, 4, 4, 2, 2]


@pytest.mark.parametrize("make", [lambda: leaf.CPU, lambda: leaf.MATH])
def test_one_query_a_text_sees_all_of_its_keys(make):
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(3, 4, 8, generator=generator)
    keys, values = (torch.randn(3, 5, 2, 8, generator=generator) for _ in range(2))
    found = make().dense((query, keys, values), 8**-0.5)
    for n in range(3):
        k, v = (t[n].repeat_interleave(2, 1).transpose(0, 1) for t in (keys, values))
        scores = (query[n][:, None] @ k.transpose(1, 2))[:, 0] * 8**-0.5
        torch.testing.assert_close(found.lse[n], scores.logsumexp(-1))
        expected = (scores.softmax(-1)[:, None] @ v)[:, 0]
        torch.testing.assert_close(found.output[n], expected)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)], ids=str)
@pytest.mark.parametrize("texts", [(1, 1, 1, 1), (2, 1, 0, 3)], ids=str)
def test_texts_go_on_from_long_prompts(heads, dtype, texts, device):
    """FlashAttention splits many keys among blocks, and folds heads into the one query of each run."""
    levels = [
        [Segment(n) for n in (1100, 0, 70, 600)],
        [Segment(1, parent) for parent, count in enumerate(texts) for _ in range(count)],
    ]
    prompts = sum(segment.length for segment in levels[0])
    tensors = draw(*heads, dtype, total=prompts + sum(texts), size=64)
    found = segments.attend([t.to(device) for t in tensors], pack_segments(levels, device, first=1))
    expected = plain(*tensors, 64**-0.5, levels=levels)
    torch.testing.assert_close(
        found[prompts:].double().cpu(), expected[prompts:], rtol=0, atol=1e-2
    )


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)], ids=str)
def test_gradients_of_long_texts(heads, dtype, device):
    """Of more tokens than a block of FlashAttention has, 128."""
    levels = [[Segment(300), Segment(130)], [Segment(150), Segment(200), Segment(10, 1)]]
    total = sum(segment.length for level in levels for segment in level)
    tensors = draw(*heads, dtype, total=total, size=64)
    given = [t.to(device).requires_grad_() for t in tensors]
    exact = [t.double().requires_grad_() for t in tensors]
    results = (
        segments.attend(given, pack_segments(levels, device)),
        plain(*exact, 64**-0.5, levels=levels),
    )
    pairs = [
        torch.autograd.grad(result.square().sum(), leaves)
        for result, leaves in zip(results, (given, exact), strict=True)
    ]
    for one, other in zip(*pairs, strict=True):
        assert (one.double().cpu() - other).norm() < 2**-6 * other.norm()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)], ids=str)
def test_a_long_text_goes_on(heads, dtype, device):
    query, keys, values = draw(*heads, dtype, total=3 * 900, size=64)
    cache = [t.view(3, 900, heads[1], 64) for t in (keys, values)]
    given = [query[:3], *(t[:, :700] for t in cache)]  # room for 200 more
    here = [t.to(device) for t in (query[:3], *cache)]
    found = leaf_for(here[0]).dense((here[0], *(t[:, :700] for t in here[1:])), 64**-0.5)
    exact = MATH.dense(tuple(t.double() for t in given), 64**-0.5)
    torch.testing.assert_close(found.output.double().cpu(), exact.output, rtol=0, atol=1e-2)
    torch.testing.assert_close(found.lse.double().cpu(), exact.lse, rtol=0, atol=1e-2)


@pytest.mark.parametrize(("size", "expected"), [(8, CUDA), (256, CUDA), (12, MATH), (264, MATH)])
def test_flash_attention_is_given_only_heads_that_it_takes(gpu, size, expected):
    for dtype in (torch.bfloat16, torch.float16):
        assert leaf_for(gpu.claim(torch.zeros(1, 2, size, dtype=dtype))) is expected
