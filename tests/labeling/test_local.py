import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif_pl.labeling.backends.local_model import LocalModel, buckets


def test_buckets_by_hand():
    # Sorted by length: 9 (index 1), 5 (3), 4 (0), 1 (2). Budget 10: [9], then 5 and 4 pad to
    # 2 x 5 = 10; a third would cost 15, so 1 is alone.
    assert list(buckets([4, 9, 1, 5], 10)) == [[1], [3, 0], [2]]


def test_an_item_over_budget_is_a_group_of_its_own():
    assert list(buckets([50, 2], 10)) == [[0], [1]]


@given(st.lists(st.integers(0, 60), max_size=40), st.integers(1, 200))
def test_every_item_comes_once_and_budgets_hold(lengths, budget):
    groups = list(buckets(lengths, budget))
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget


def test_a_budget_below_one_is_refused():
    with pytest.raises(ValueError, match="batch_tokens"):
        list(buckets([1], 0))


def test_a_model_is_loaded_once_and_on_its_device(folders, device):
    model = LocalModel(folders["mistral"], device=device.type)
    assert model.backbone is model.backbone
    assert next(model.stack.parameters()).device.type == device.type
    assert model.window == 16
    assert model.context == 512
    assert model.head is model.backbone.model.lm_head
