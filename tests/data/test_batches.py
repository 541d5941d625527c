"""Batches of records: what modules read of them, and that Lightning leaves them alone."""

import pytest
import torch
from lightning.pytorch.plugins import HalfPrecision
from lightning.pytorch.utilities import move_data_to_device

from rlaif_pl.training.pairs_module import labels
from rlaif_pl.types import Batch, Preference, Prompt

PAIRS = [Preference("p", "a", "b", "g", 0.25, 2.0), Preference("q", "c", "d", "h", 1.0)]
PROMPTS = [Prompt("p", "g", "ref p"), Prompt("q", "h", "ref q")]


def test_pairs_keep_targets_and_a_filler_weighs_nothing():
    batch = Batch(PAIRS, [4, 7], [False, True])
    pairs = [(row.first, row.second) for row in batch.rows]
    assert (batch.prompts, pairs) == (["p", "q"], [("a", "b"), ("c", "d")])
    target, weight = labels(batch, torch.device("cpu"))
    torch.testing.assert_close(target, torch.tensor([0.25, 1.0]))
    torch.testing.assert_close(weight, torch.tensor([2.0, 0.0]))


def test_an_unlabeled_pair_is_refused():
    batch = Batch([Preference("p", "a", "b", "g")], [9], [False])
    with pytest.raises(ValueError, match=r"row 9 \(group 'g'\) has no p_first"):
        labels(batch, torch.device("cpu"))


def test_a_prompt_without_reference_is_no_demonstration():
    batch = Batch(PROMPTS, [4, 7], [False, True])
    assert (batch.prompts, batch.given("reference")) == (["p", "q"], ["ref p", "ref q"])
    with pytest.raises(ValueError, match=r"row 3 \(group 'g'\) has no reference"):
        Batch([Prompt("p", "g")], [3], [False]).given("reference")


def test_lightning_neither_moves_nor_casts_a_batch():
    batch = Batch(PAIRS, [0, 1], [False, False])
    assert move_data_to_device(batch, "meta") is batch
    assert HalfPrecision("bf16-true").convert_input(batch) is batch
    assert batch.rows is PAIRS
