"""A batch by hand: two prompts of 3 and 1 tokens, two responses each."""

import torch

from rlaif_pl.engine.response_batch import TrunkStates, assemble

# The last prompt token opens each response, so the prefixes are [3, 4] and nothing.
BATCH = assemble([[3, 4, 5], [9]], [[6, 7, 1], [1], [8, 1], [2, 2, 1]], pad=0)


def test_all_prefixes_lie_before_all_continuations():
    assert BATCH.layout.lengths == [2, 0, 4, 2, 3, 4]
    assert BATCH.starts == [2, 6, 8, 11, 15]
    assert BATCH.packed_ids.tolist() == [3, 4] + [5, 6, 7, 1] + [5, 1] + [9, 8, 1] + [9, 2, 2, 1]
    assert BATCH.layout.chains == [[], [], [0], [0], [], []]


def test_each_response_counts_on_from_its_prompt():
    positions = BATCH.layout.positions.tolist()
    assert positions == [0, 1] + [2, 3, 4, 5] + [2, 3] + [0, 1, 2] + [0, 1, 2, 3]


def test_attention_is_one_block_a_pair_of_levels():
    own, above = BATCH.layout.blocks
    assert own.causal
    assert own.query_runs.cumulative.tolist() == [0, 2, 2, 6, 8, 11, 15]
    assert (above.queries, above.keys) == (slice(2, 15), slice(0, 2))
    assert above.query_runs.cumulative.tolist() == [0, 6, 13]
    assert above.key_runs.cumulative.tolist() == [0, 2, 2]
    assert above.has_empty_keys


def test_what_belongs_to_response_tokens_is_spread_to_their_places_and_0_at_padding():
    # tokens 6 7 1, 1, 8 1, 2 2 1
    found = BATCH.spread(torch.arange(1.0, 10.0))
    assert found.tolist() == [[1, 2, 3], [4, 0, 0], [5, 6, 0], [7, 8, 9]]
    states = torch.arange(18.0).view(9, 2)
    assert torch.equal(BATCH.spread(states)[BATCH.is_response], states)
    assert BATCH.spread(states).shape == (4, 3, 2)
    assert not BATCH.spread(states)[~BATCH.is_response].any()
    nothing = assemble([[3], [4]], [[], []], pad=0)
    assert nothing.spread(torch.zeros(0)).shape == (2, 0)


def test_places_count_from_a_column_of_each_continuation():
    assert BATCH.places([3, 1, 2, 3]).tolist() == [5, 7, 10, 14]  # the last tokens
    assert BATCH.places([1, 1, 1, 1]).tolist() == [3, 4, 5, 7, 9, 10, 12, 13, 14]


def test_states_of_longer_texts_are_taken_over():
    # Two tokens of prefixes, then five columns of each text, of which the batch has 4, 2, 3, 4.
    longer = TrunkStates(torch.arange(22.0)[:, None], [2, 7, 12, 17])
    found = BATCH.gather(longer).flatten().tolist()
    assert found == [0, 1] + [2, 3, 4, 5] + [7, 8] + [12, 13, 14] + [17, 18, 19, 20]
    whole = TrunkStates(torch.arange(15.0)[:, None], BATCH.starts)
    assert BATCH.inputs.gather(whole).flatten().tolist() == [0, 1, 2, 3, 4, 6, 8, 9, 11, 12, 13]


def test_parts_are_runs_of_the_packed_row():
    assert BATCH.packed_slices(slice(0, 1)) == (slice(0, 2), slice(2, 8))
    assert BATCH.packed_slices(slice(1, 2)) == (slice(2, 2), slice(8, 15))
    part = BATCH.part(slice(1, 2))
    assert part.packed_ids.tolist() == BATCH.packed_ids[8:].tolist()
    assert torch.equal(part.response_ids, BATCH.response_ids[2:])


def test_masks_follow_from_lengths_on_the_host():
    assert BATCH.is_response.int().tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert BATCH.response_ids.tolist() == [[6, 7, 1], [1, 0, 0], [8, 1, 0], [2, 2, 1]]
    assert BATCH.lengths.tolist() == [3, 1, 2, 3]
    assert BATCH.inputs.continuations == ([5, 6, 7], [5], [9, 8], [9, 2, 2])


def test_a_response_sees_the_prompt_and_what_it_wrote():
    layout = BATCH.layout
    assert layout.attention_mask(2, 2, None).int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert layout.attention_mask(0, 3, None) is None  # each sees all before it: no mask at all
    assert layout.attention_mask(0, 3, 3) is None


def test_a_window_of_two_sees_itself_and_one_before():
    layout = BATCH.layout
    assert layout.attention_mask(2, 2, 2).int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 1]]
    assert layout.attention_mask(0, 3, 2).int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
