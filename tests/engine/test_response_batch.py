"""A batch by hand: two prompts of 3 and 1 tokens, two responses each."""

import torch

from rlaif_pl.engine.response_batch import assemble

# The last prompt token opens each response, so the prefixes are [3, 4] and nothing.
BATCH = assemble([[3, 4, 5], [9]], [[6, 7, 1], [1], [8, 1], [2, 2, 1]], pad=0)


def test_all_prefixes_lie_before_all_continuations():
    packed = BATCH.packed
    assert packed.batch.lengths == [2, 0, 4, 2, 3, 4]
    ids = packed.gather(BATCH.prefix_ids, BATCH.ids)
    assert ids.tolist() == [3, 4] + [5, 6, 7, 1] + [5, 1] + [9, 8, 1] + [9, 2, 2, 1]
    assert packed.batch.chains() == [[], [], [0], [0], [], []]


def test_each_response_counts_on_from_its_prompt():
    positions = BATCH.packed.batch.positions.tolist()
    assert positions == [0, 1] + [2, 3, 4, 5] + [2, 3] + [0, 1, 2] + [0, 1, 2, 3]


def test_attention_is_one_block_a_pair_of_levels():
    own, above = BATCH.packed.batch.blocks
    assert own.causal
    assert own.query_runs.cumulative.tolist() == [0, 2, 2, 6, 8, 11, 15]
    assert (above.queries, above.keys) == (slice(2, 15), slice(0, 2))
    assert above.query_runs.cumulative.tolist() == [0, 6, 13]
    assert above.key_runs.cumulative.tolist() == [0, 2, 2]
    assert above.has_empty_keys


def test_scattered_states_are_back_in_place_and_0_at_padding():
    states = torch.arange(1.0, 16.0)[:, None]
    prefix, continuation = BATCH.scatter(states)
    assert prefix[..., 0].tolist() == [[1, 2], [0, 0]]
    assert continuation[..., 0].tolist() == [
        [3, 4, 5, 6],
        [7, 8, 0, 0],
        [9, 10, 11, 0],
        [12, 13, 14, 15],
    ]
    assert torch.equal(BATCH.packed.gather(prefix, continuation), states)


def test_masks_follow_from_lengths_on_the_host():
    assert BATCH.is_real.int().tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert BATCH.prefix_is_real.tolist() == [[True, True], [False, False]]
    assert BATCH.lengths.tolist() == [3, 1, 2, 3]
    assert BATCH.inputs.continuation_lengths == (3, 1, 2, 3)
    assert BATCH.inputs.ids.shape == (4, 3)


def test_a_response_sees_the_prompt_and_what_it_wrote():
    layout = BATCH.packed.batch
    assert layout.attention_mask(2, 2, None).int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert layout.attention_mask(0, 3, None) is None  # each sees all before it: no mask at all
    assert layout.attention_mask(0, 3, 3) is None


def test_a_window_of_two_sees_itself_and_one_before():
    layout = BATCH.packed.batch
    assert layout.attention_mask(2, 2, 2).int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 1]]
    assert layout.attention_mask(0, 3, 2).int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
