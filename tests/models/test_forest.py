"""Trees read in one row: every text's states are those of the text alone."""

import pytest
import torch

from rlaif_pl.models.forest import read_forest
from rlaif_pl.models.prefix_tree import Node, Text, grow
from rlaif_pl.models.stack import Stack, decoder_of
from rlaif_pl.models.tree_run import extend

HEAD = (5, 6, 7, 8)
TEXTS = [
    (*HEAD, 9, 10, 11),
    (*HEAD, 9, 10, 12, 13),
    (*HEAD, 14, 15, 16, 17, 18),
    (*HEAD, 14, 15, 19),
    (*HEAD, 20),
]
ARCHITECTURES = ["llama", "qwen2", "mistral", "gpt2", "gemma3"]


def trees_of(texts, start=0):
    rows = [Text(ids, len(ids) - 1) for ids in texts]
    return grow(rows, sorted(range(len(rows)), key=lambda n: texts[n]), start, least=1)


def alone(stack, ids):
    row = torch.tensor([ids])
    places = torch.arange(len(ids))[None]
    return stack(row, torch.ones_like(row, dtype=torch.bool), places)[0]


@pytest.mark.parametrize("rooted", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_token_has_the_state_it_has_in_its_text_alone(make_model, name, rooted):
    stack = Stack(decoder_of(make_model(name)))
    root = extend(stack, 0, None, HEAD) if rooted else None
    with torch.no_grad():
        forest, hidden = read_forest(stack, root, trees_of(TEXTS, len(HEAD) * rooted))
    # 4 tokens of the head unless it is the root; then 9 10 | 11 | 12 13, 14 15 | 16 17 18 | 19, 20
    assert hidden.shape[0] == 12 + len(HEAD) * (not rooted)
    checked = 0
    for node, start in zip(forest.nodes, forest.starts, strict=True):
        for member in node.members:
            expected = alone(stack, TEXTS[member])[node.start : node.stop]
            torch.testing.assert_close(
                hidden[start : start + len(node.ids)], expected, atol=1e-4, rtol=1e-4
            )
            checked += len(node.ids)
    assert checked == sum(len(text) - len(HEAD) * rooted for text in TEXTS)


def test_unrelated_texts_do_not_see_each_other(make_model):
    stack = Stack(decoder_of(make_model("llama")))
    texts = [(5, 6, 7), (8, 9), (10,)]
    with torch.no_grad():
        _, hidden = read_forest(stack, None, [Node(0, ids, [n]) for n, ids in enumerate(texts)])
    expected = torch.cat([alone(stack, ids) for ids in texts])
    torch.testing.assert_close(hidden, expected, atol=1e-4, rtol=1e-4)


def test_attention_that_is_not_known_is_refused_and_the_model_left_as_it_was(make_model):
    stack = Stack(decoder_of(make_model("gemma2")))  # caps its scores
    before = stack.decoder.config._attn_implementation
    with pytest.raises(NotImplementedError, match="softcap"):
        read_forest(stack, None, trees_of(TEXTS))
    assert stack.decoder.config._attn_implementation == before
