"""Rows run as trees: every token's state and score is that of its text alone."""

from collections import namedtuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlaif_pl.engine import batch as engine_batch
from rlaif_pl.engine.batch import to_device
from rlaif_pl.engine.decoder_layers import decoder_of
from rlaif_pl.engine.runner import DecoderRunner
from rlaif_pl.engine.tree_runner import (
    Node,
    PrefixTreeRunner,
    Text,
    buckets,
    common_start,
    grow,
    pack_trees,
)

Row = namedtuple("Row", ["ids", "first"])
HEAD = (5, 6, 7, 8)
TEXTS = [
    (*HEAD, 9, 10, 11),
    (*HEAD, 9, 10, 12, 13),
    (*HEAD, 14, 15, 16, 17, 18),
    (*HEAD, 14, 15, 19),
    (*HEAD, 20),
    (30, 31),
]
# Windows of 4 tokens: the longest text has 9.
ARCHITECTURES = [
    *((name, None) for name in ("llama", "qwen2", "gpt2", "gemma2", "gemma3")),
    *((name, 4) for name in ("mistral", "gemma2")),
]


def log_probabilities(plain, ids):
    """Distribution after every token of a text, by transformers alone."""
    return plain(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)


@torch.no_grad()
@pytest.mark.parametrize(("name", "window"), ARCHITECTURES)
def test_states_are_those_of_each_text_alone(make_model, name, window):
    decoder = decoder_of(make_model(name, window))
    rows = [Text(ids, len(ids) - 1) for ids in TEXTS]
    tree = pack_trees(grow(rows, sorted(range(6), key=lambda n: TEXTS[n]), least=1), "cpu")
    # 4 tokens of the head; then 9 10 | 11 | 12 13, 14 15 | 16 17 18 | 19, 20; then 30 31
    assert len(tree.ids) == 18
    runner = DecoderRunner(decoder)
    assert runner.capabilities.packs
    hidden = runner.packed_forward(tree.ids, tree.batch)
    for node, start in tree.leaves:
        ids = torch.tensor([TEXTS[node.members[0]]])
        expected = decoder(input_ids=ids, use_cache=False).last_hidden_state[0, node.start :]
        found = hidden[start : start + len(node.ids)]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch_tokens", [6, 4096])
@pytest.mark.parametrize(("name", "window"), ARCHITECTURES)
def test_scores_are_those_of_each_text_alone(model_of, plain_of, name, window, batch_tokens):
    model, plain = model_of(name, window), plain_of(name, window)
    runner = PrefixTreeRunner(model, batch_tokens, least_shared=2)
    rows = [Row(ids, max(1, len(ids) - 2)) for ids in TEXTS]
    for _ in range(2):  # the second time from a kept root
        found = {place: values for batch in runner.score(rows) for place, values in batch}
        assert sorted(found) == list(range(6))
        for place, (ids, first) in enumerate(rows):
            table = log_probabilities(plain, ids)
            expected = [table[at - 1, ids[at]].item() for at in range(first, len(ids))]
            assert found[place] == pytest.approx(expected, abs=1e-4)
        assert bool(runner._roots) is (batch_tokens == 6)  # a pair keeps its beginning to itself


def test_a_kept_root_is_taken_for_rows_that_begin_with_all_of_it(model_of, plain_of):
    """One post after two preambles of as many tokens: what one kept is not the other's."""
    model, plain = model_of(), plain_of()
    runner = PrefixTreeRunner(model, 4096, least_shared=2)
    post, other = (50, 51, 52), (60, 61, 62)
    for rows in (
        [(20, 21, 22, *post, last, 9) for last in (1, 2, 3)],  # keeps preamble and post
        [(*HEAD[:3], *text, last, 9) for text in (post, other) for last in (1, 2)],
    ):
        found = dict(
            each for batch in runner.score([Row(ids, 6) for ids in rows]) for each in batch
        )
        for place, ids in enumerate(rows):
            table = log_probabilities(plain, ids)
            expected = [table[at - 1, ids[at]].item() for at in (6, 7)]
            assert found[place] == pytest.approx(expected, abs=1e-4)
    assert {ids[:3] for ids in runner._roots} == {(20, 21, 22), HEAD[:3]}


@torch.no_grad()
@pytest.mark.parametrize(("name", "window"), ARCHITECTURES)
def test_texts_go_on_as_each_would_alone(model_of, plain_of, name, window):
    model, plain = model_of(name, window), plain_of(name, window)
    runner = PrefixTreeRunner(model, 4096, least_shared=2)
    copies = [2, 1, 1, 1, 1, 1]
    seen = []
    rows = [Row(ids, len(ids)) for ids in TEXTS]
    for state, order in runner.states(rows, copies, 3):
        owners = [row for row in order for _ in range(copies[row])]
        texts = [list(TEXTS[row]) for row in owners]
        for step in range(3):
            tokens = torch.tensor([text[-1] for text in texts])
            found = state.next_logits(state.forward_trunk(tokens)).log_softmax(-1)
            for text, values in zip(texts, found, strict=True):
                expected = log_probabilities(plain, text)[-1]
                torch.testing.assert_close(values, expected, atol=1e-4, rtol=1e-4)
                text.append(40 + step)
        seen += owners
    assert sorted(seen) == [0, 0, 1, 2, 3, 4, 5]


@torch.no_grad()
def test_attention_to_a_kept_root_is_planned_once_a_batch(model_of, monkeypatch):
    planned = []

    def counting(lists, device):
        planned.append(lists)
        return to_device(lists, device)

    model, rows = model_of(), [Row(ids, len(ids)) for ids in TEXTS[:5]]
    assert model.top.capabilities.packs  # measured once, by batches of its own
    monkeypatch.setattr(engine_batch, "to_device", counting)
    runner = PrefixTreeRunner(model, 4096, least_shared=2)
    for state, order in runner.states(rows, [1] * 5, 3):
        assert runner._roots
        # the root, its cache, the batch, and the attention of the texts' own tokens
        assert len(planned) <= 4
        planned.clear()
        for _ in range(3):
            state.next_logits(state.forward_trunk(torch.tensor(order)))
        assert not planned


def test_unrelated_texts_do_not_see_each_other(make_model):
    runner = DecoderRunner(decoder_of(make_model("llama")))
    assert runner.capabilities.packs
    texts = [(5, 6, 7), (8, 9), (10,)]
    tree = pack_trees([Node(0, ids, [n]) for n, ids in enumerate(texts)], "cpu")
    hidden = runner.packed_forward(tree.ids, tree.batch)
    alone = [runner.decoder(input_ids=torch.tensor([ids])).last_hidden_state[0] for ids in texts]
    torch.testing.assert_close(hidden, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_groups_hold_what_the_budget_allows():
    assert list(buckets([3, 9, 2, 4], 7)) == [[1], [3, 0], [2]]
    assert list(buckets([3, 9, 2, 4], 7, padded=True)) == [[1], [3], [0, 2]]


def test_buckets_by_hand():
    # Sorted by length: 9 (index 1), 5 (3), 4 (0), 1 (2). Budget 10: [9], then 5 and 4 pad to
    # 2 x 5 = 10; a third would cost 15, so 1 is alone.
    assert list(buckets([4, 9, 1, 5], 10, padded=True)) == [[1], [3, 0], [2]]


def test_an_item_over_budget_is_a_group_of_its_own():
    assert list(buckets([50, 2], 10)) == [[0], [1]]


@given(st.lists(st.integers(0, 60), max_size=40), st.integers(1, 200))
def test_every_item_comes_once_and_budgets_hold(lengths, budget):
    groups = list(buckets(lengths, budget, padded=True))
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget


def test_a_budget_below_one_is_refused():
    with pytest.raises(ValueError, match="batch_tokens"):
        list(buckets([1], 0))


def tree_of(rows, shareable=None, least=1):
    texts = [
        Text(tuple(row), len(row) - 1 if shareable is None else shareable[n])
        for n, row in enumerate(rows)
    ]
    return grow(texts, sorted(range(len(rows)), key=lambda n: texts[n].ids), least=least)


def shape(nodes):
    return [("".join(map(chr, node.ids)), shape(node.children)) for node in nodes]


def words(*texts):
    return [[ord(letter) for letter in text] for text in texts]


def test_a_tree_by_hand():
    # All begin with "ab"; the first two go on with "c"; "x" is alone.
    found = tree_of(words("abcd", "abce", "abf", "x"))
    assert shape(found) == [("ab", [("c", [("d", []), ("e", [])]), ("f", [])]), ("x", [])]
    assert [node.num_tokens() for node in found] == [6, 1]
    assert pack_trees(found, "cpu").batch.longest == 4


def test_short_beginnings_are_not_worth_a_node():
    assert shape(tree_of(words("abcd", "abce", "abf"), least=3)) == [
        ("abc", [("d", []), ("e", [])]),
        ("abf", []),
    ]


def test_the_last_tokens_of_a_row_stay_its_own():
    # The second row may share one token only, since the states of the others are wanted.
    assert shape(tree_of(words("abcd", "abce"), shareable=[3, 1])) == [
        ("a", [("bcd", []), ("bce", [])])
    ]


def test_packed_trees_by_hand():
    packed = pack_trees(tree_of(words("abcd", "abce", "abf", "x")), "cpu")
    assert "".join(map(chr, packed.ids.tolist())) == "abxcfde"
    assert packed.batch.positions.tolist() == [0, 1, 0, 2, 2, 3, 3]
    assert [(n.members[0], start) for n, start in packed.leaves] == [(3, 2), (2, 4), (0, 5), (1, 6)]


def test_carried_leaves_bring_every_row_to_the_last_level():
    trees = tree_of(words("abcd", "abce", "abf", "x"))
    packed = pack_trees(trees, "cpu", to_the_end=True)
    assert packed.rows == [0, 1, 2, 3]
    assert [segment.length for segment in packed.batch.levels[-1]] == [1, 1, 0, 0]
    assert packed.batch.ends == [4, 4, 3, 1]


ROWS = st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=9), min_size=1, max_size=12)


@given(ROWS, st.integers(1, 4))
def test_every_row_can_be_read_off_its_branch(rows, least):
    rows = [list(row) for row in dict.fromkeys(map(tuple, rows))]

    def branches(nodes, before=()):
        for node in nodes:
            assert node.start == len(before)
            text = (*before, *node.ids)
            assert node.ids
            if node.children:
                assert len(node.ids) >= least
                assert len(node.children) > 1
                yield from branches(node.children, text)
            else:
                yield node.members[0], text

    trees = tree_of(rows, least=least)
    assert dict(branches(trees)) == {n: tuple(row) for n, row in enumerate(rows)}
    assert sum(tree.num_tokens() for tree in trees) <= sum(map(len, rows))


def test_rows_begin_alike_by_hand():
    assert common_start([1, 2, 3], [1, 2, 4]) == 2
    assert common_start([1, 2], [1, 2, 4]) == 2
    assert common_start([], [1]) == 0
