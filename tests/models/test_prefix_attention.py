"""Attention of a packed row against the plain definition: softmax over a text's own scores."""

import pytest
import torch

from rlaif_pl.models import prefix_attention
from rlaif_pl.models.encoding import PrefixBatch
from rlaif_pl.models.pair_layout import pack, pack_texts

TREES = [(6, (4, 1, 3)), (0, (2, 5, 1)), (1, (3, 3, 0))]  # prefix, continuations in tokens
TOTAL = sum(prefix + sum(branches) for prefix, branches in TREES)


def row_of(trees=TREES):
    prefix = torch.tensor([tree[0] for tree in trees])
    branches = torch.tensor([size for tree in trees for size in tree[1]])
    reals = [torch.arange(int(n.max())) < n[:, None] for n in (prefix, branches)]
    return pack(PrefixBatch(reals[0].long(), reals[0], reals[1].long(), reals[1]))


def plain(query, key, value, scale, trees=TREES):
    """One text at a time, all of its scores at once, keys repeated for the heads that share them."""
    share = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(share, 1) for t in (key, value))
    result, start = [], 0
    for prefix, branches in trees:
        begins = [start + prefix + sum(branches[:n]) for n in range(len(branches))]
        texts = [range(start, start + prefix)]
        texts += [range(b, b + size) for b, size in zip(begins, branches, strict=True)]
        for n, own in enumerate(texts):
            places = [*(texts[0] if n else []), *own]
            scores = scale * query[:, :, list(own)] @ key[:, :, places].transpose(2, 3)
            ahead = torch.ones(scores.shape[2:], dtype=torch.bool).triu(1 + len(places) - len(own))
            weights = scores.masked_fill(ahead, -torch.inf).softmax(-1)
            result.append(weights @ value[:, :, places])
        start = begins[-1] + branches[-1]
    return torch.cat(result, 2).transpose(1, 2)


def draw(heads, key_heads, dtype=torch.float32, total=TOTAL):
    """Leaves as models give them: ``(1, T, heads, size)`` with the heads moved forward."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(1, total, count, 8) for count in (heads, key_heads, key_heads)]
    return [torch.randn(shape, generator=generator).to(dtype).transpose(1, 2) for shape in shapes]


def test_two_responses_by_hand():
    # One head of size 1, scale 1, all queries 0: a token weighs what it sees equally.
    # Prompt values 2, 4; first response 6; second 0, 9.
    value = torch.tensor([2.0, 4.0, 6.0, 0.0, 9.0]).view(1, 1, 5, 1)
    row = pack_texts(2, (1, 2), torch.device("cpu"))
    found = prefix_attention.attend(
        torch.zeros_like(value), torch.ones_like(value), value, row, 1.0
    )
    # Means of 2; of 2, 4; of 2, 4, 6; of 2, 4, 0; of 2, 4, 0, 9.
    torch.testing.assert_close(found.flatten(), torch.tensor([2.0, 3.0, 4.0, 2.0, 3.75]))


@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2), (3, 1)])
def test_results_and_gradients_are_those_of_each_text_alone(heads, key_heads, scale):
    tensors = draw(heads, key_heads)
    weights = torch.randn(1, TOTAL, heads, 8, generator=torch.Generator().manual_seed(4))
    given = [t.clone().requires_grad_() for t in tensors]
    found = prefix_attention.attend(*given, row_of(), scale)
    gradients = torch.autograd.grad(found, given, weights)
    exact = [t.double().requires_grad_() for t in tensors]
    expected = plain(*exact, 8**-0.5 if scale is None else scale)
    wanted = torch.autograd.grad(expected, exact, weights.double())
    for one, other in zip((found, *gradients), (expected, *wanted), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-5)


def test_half_precision_rounds_and_no_more():
    query, key, value = draw(4, 2, torch.bfloat16)
    found = prefix_attention.attend(query, key, value, row_of())
    assert found.dtype == torch.bfloat16
    expected = plain(query.double(), key.double(), value.double(), 8**-0.5)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=3e-2)


def test_autocast_brings_all_to_one_type():
    query, key, value = draw(4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = prefix_attention.attend(query, key, value.bfloat16(), row_of())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(
        found.double(), plain(query, key, value, 8**-0.5).double(), rtol=0, atol=3e-2
    )


def test_prefixes_that_do_not_ask_change_nothing_else():
    asking, silent = row_of(), row_of()
    silent.prefix_asks = False
    is_prefix = torch.zeros(TOTAL, dtype=torch.bool)
    is_prefix[:6] = is_prefix[22] = True  # 6 and 8 tokens, 8 of the second tree, 1 of the third
    results = []
    for row in (asking, silent):
        given = [t.clone().requires_grad_() for t in draw(4, 2)]
        found = prefix_attention.attend(*given, row)
        results.append((found, *torch.autograd.grad(found[:, ~is_prefix].square().sum(), given)))
    assert not results[1][0][:, is_prefix].any()
    results = [(one[0][:, ~is_prefix], *one[1:]) for one in results]
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-6)


def test_keys_are_kept_once_whatever_the_number_of_continuations():
    trees = [(40, (5,) * 16)]
    total = 40 + 16 * 5
    query, key, value = (t.requires_grad_() for t in draw(6, 2, total=total))
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        prefix_attention.attend(query, key, value, row_of(trees))
    # queries and output of 6 heads, keys and values of 2, the log-sum-exp of 6; floats of 4 bytes
    assert sum(kept.values()) == 4 * total * (8 * (6 + 6 + 2 + 2) + 6)


@pytest.mark.parametrize(
    ("window", "cap", "expected"),
    [(None, None, True), (10, None, True), (9, None, False), (None, 30.0, False)],
)
def test_what_it_suits(window, cap, expected):
    # The longest text has 6 + 4 tokens.
    assert prefix_attention.suits(*draw(4, 2), row_of(), window, cap) is expected


def test_heads_of_different_sizes_are_left_to_the_other_way():
    query, key, value = draw(4, 2)
    assert not prefix_attention.suits(query, key, value[..., :4], row_of(), None, None)
