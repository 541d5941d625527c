"""A packed row by hand: two prompts of 3 and 1 tokens, two responses each."""

import torch

from rlaif_pl.models.encoding import assemble
from rlaif_pl.models.pair_layout import Tree, pack

# The last prompt token opens each response, so the prefixes are [3, 4] and nothing.
BATCH = assemble([[3, 4, 5], [9]], [[6, 7, 1], [1], [8, 1], [2, 2, 1]], pad=0)
ROW = pack(BATCH)


def test_a_row_is_each_prefix_with_its_continuations_end_to_end():
    assert ROW.trees == (Tree(2, (4, 2)), Tree(0, (3, 4)))
    assert ROW.sizes == [2, 4, 2, 0, 3, 4]
    ids = ROW.gather(BATCH.prefix_ids, BATCH.ids)
    assert ids.tolist() == [3, 4] + [5, 6, 7, 1] + [5, 1] + [9, 8, 1] + [9, 2, 2, 1]


def test_each_response_counts_on_from_its_prompt():
    assert ROW.positions.tolist() == [0, 1] + [2, 3, 4, 5] + [2, 3] + [0, 1, 2] + [0, 1, 2, 3]


def test_scattered_states_are_back_in_place_and_0_at_padding():
    states = torch.arange(1.0, 16.0)[:, None]
    prefix, continuation = ROW.scatter(states)
    assert prefix[..., 0].tolist() == [[1, 2], [0, 0]]
    assert continuation[..., 0].tolist() == [
        [3, 4, 5, 6],
        [7, 8, 0, 0],
        [9, 10, 11, 0],
        [12, 13, 14, 15],
    ]
    assert torch.equal(ROW.gather(prefix, continuation), states)


def test_a_response_sees_the_prompt_and_what_it_wrote():
    assert ROW.sees(2, 2, None).int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert ROW.sees(0, 3, None) is None  # each token sees all before it: no mask at all
    assert ROW.sees(0, 3, 3) is None


def test_a_window_of_two_sees_itself_and_one_before():
    assert ROW.sees(2, 2, 2).int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 1]]
    assert ROW.sees(0, 3, 2).int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
