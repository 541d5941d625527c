"""Records to batches of text."""

import pytest
import torch
from lightning.pytorch.utilities import move_data_to_device

from rlaif_pl.data.collate import collate_demonstrations, collate_pairs, collate_prompts
from rlaif_pl.types import Preference, Prompt

PAIRS = [Preference("p", "a", "b", "g", 0.25, 2.0), Preference("q", "c", "d", "h", 1.0)]
PROMPTS = [Prompt("p", "g", "ref p"), Prompt("q", "h", "ref q")]


def test_pairs_keep_targets_and_a_filler_weighs_nothing():
    batch = collate_pairs(PAIRS, [4, 7], [False, True])
    assert (batch.prompts, batch.first, batch.second) == (["p", "q"], ["a", "c"], ["b", "d"])
    torch.testing.assert_close(batch.target, torch.tensor([0.25, 1.0]))
    torch.testing.assert_close(batch.weight, torch.tensor([2.0, 0.0]))


def test_an_unlabeled_pair_is_refused():
    with pytest.raises(ValueError, match=r"row 9 \(group 'g'\) has no p_first"):
        collate_pairs([Preference("p", "a", "b", "g")], [9], [False])


def test_prompts_keep_their_positions():
    batch = collate_prompts(PROMPTS, [4, 7], [False, True])
    assert (batch.prompts, batch.groups) == (["p", "q"], ["g", "h"])
    assert batch.positions.dtype == torch.int64
    assert batch.positions.tolist() == [4, 7]
    assert batch.is_padding.tolist() == [False, True]


def test_a_filler_demonstration_is_marked():
    batch = collate_demonstrations(PROMPTS, [4, 7], [False, True])
    assert (batch.prompts, batch.is_padding.tolist()) == (["p", "q"], [False, True])


def test_a_prompt_without_reference_is_no_demonstration():
    with pytest.raises(ValueError, match=r"row 3 \(group 'g'\) has no reference"):
        collate_demonstrations([Prompt("p", "g")], [3], [False])


def test_a_batch_of_text_can_be_moved_to_a_device():
    moved = move_data_to_device(collate_prompts(PROMPTS, [0, 1], [False, False]), "meta")
    assert moved.prompts == ["p", "q"]
    assert moved.positions.device.type == "meta"
