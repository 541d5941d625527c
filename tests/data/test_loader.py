"""The order of batches: complete, fair to ranks, repeatable and resumable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif_pl.data.loader import BatchLoader, BatchOrder

sizes = st.integers(1, 60), st.integers(1, 7), st.integers(1, 5)


def ranks(num_ranks, **settings):
    return [
        list(BatchOrder(rank=rank, num_ranks=num_ranks, **settings).shards())
        for rank in range(num_ranks)
    ]


def real_rows(shards):
    return [
        row
        for shard in shards
        for row, filler in zip(shard.rows, shard.is_padding, strict=True)
        if not filler
    ]


@given(*sizes, st.booleans(), st.booleans())
def test_every_row_counts_once_and_no_rank_waits(num_rows, batch_size, num_ranks, shuffle, bucket):
    lengths = [row % 7 for row in range(num_rows)] if bucket else None
    parts = ranks(
        num_ranks,
        num_rows=num_rows,
        batch_size=batch_size,
        shuffle=shuffle,
        lengths=lengths,
        bucket_batches=3,
    )
    assert sorted(row for shards in parts for row in real_rows(shards)) == list(range(num_rows))
    expected = -(-num_rows // (batch_size * num_ranks))
    for batches in zip(*parts, strict=True):
        assert len({len(shard.rows) for shard in batches}) == 1
        assert all(sum(shard.is_padding) <= 1 for shard in batches)
        assert 1 <= len(batches[0].rows) <= batch_size
    assert {len(shards) for shards in parts} == {expected}


def test_fillers_by_hand():
    # 7 rows, 2 ranks of 2: global batches 0123 and 456; rank 1 is one short and repeats row 4
    first, second = ranks(2, num_rows=7, batch_size=2, shuffle=False)
    assert [shard.rows for shard in first] == [[0, 2], [4, 6]]
    assert [shard.rows for shard in second] == [[1, 3], [5, 4]]
    assert second[1].is_padding == [False, True]
    assert not any(flag for shard in first for flag in shard.is_padding)


def test_more_ranks_shuffle_the_same_rows_into_the_same_global_batches():
    alone = list(BatchOrder(num_rows=24, batch_size=6, seed=3).shards())
    split = ranks(3, num_rows=24, batch_size=2, seed=3)
    for number, shard in enumerate(alone):
        assert sorted(shard.rows) == sorted(row for part in split for row in part[number].rows)


def test_the_order_depends_on_seed_and_epoch_only():
    order = BatchOrder(num_rows=50, batch_size=4, seed=1)
    first = list(order.shards())
    order.set_epoch(1)
    second = list(order.shards())
    order.set_epoch(0)
    assert list(order.shards()) == first
    assert second != first
    assert list(BatchOrder(num_rows=50, batch_size=4, seed=2).shards()) != first


def test_drop_last_leaves_out_the_uneven_batch():
    order = BatchOrder(num_rows=11, batch_size=4, drop_last=True)
    assert len(order) == 2
    assert [len(shard.rows) for shard in order.shards()] == [4, 4]


def test_buckets_put_like_lengths_together():
    lengths = [row * 37 % 101 for row in range(96)]
    plain = BatchOrder(num_rows=96, batch_size=8)
    bucketed = BatchOrder(num_rows=96, batch_size=8, lengths=lengths)

    def padding(order):
        return sum(
            max(lengths[row] for row in shard.rows) - lengths[n]
            for shard in order.shards()
            for n in shard.rows
        )

    assert padding(bucketed) < padding(plain) / 4
    order = [max(lengths[row] for row in shard.rows) for shard in bucketed.shards()]
    assert order != sorted(order)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_rows": 0, "batch_size": 1}, "num_rows of at least 1, got 0"),
        ({"num_rows": 1, "batch_size": 0}, "batch_size of at least 1, got 0"),
        ({"num_rows": 3, "batch_size": 2, "num_ranks": 2, "drop_last": True}, "at least 4 rows"),
    ],
)
def test_sizes_that_give_no_batch_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        BatchOrder(**settings)


def loader(num_rows=10, seed=0, batch_size=3, drop_last=False):
    order = BatchOrder(num_rows=num_rows, batch_size=batch_size, seed=seed, drop_last=drop_last)
    return BatchLoader(list(range(num_rows)), order)


def served(batches):
    return [batch.rows for batch in batches]


@pytest.mark.parametrize("stop", [0, 1, 3, 4])
@pytest.mark.parametrize("epoch", [0, 2])
def test_a_resumed_loader_hands_out_the_rest(stop, epoch):
    whole = loader()
    whole.batch_sampler.set_epoch(epoch)
    batches = iter(whole)
    for _ in range(stop):
        next(batches)
    state = whole.state_dict()
    rest = served(batches)
    whole.batch_sampler.set_epoch(epoch + 1)
    following = served(whole)

    resumed = loader()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    resumed.batch_sampler.set_epoch(epoch)
    assert served(resumed) == rest
    resumed.batch_sampler.set_epoch(epoch + 1)
    assert served(resumed) == following
    assert len(resumed) == 4


def test_an_epoch_that_was_over_is_not_cut_short_in_the_next():
    whole = loader()
    list(whole)
    resumed = loader()
    resumed.load_state_dict(whole.state_dict())
    resumed.batch_sampler.set_epoch(1)
    assert sorted(sum(served(resumed), [])) == list(range(10))


@pytest.mark.parametrize("change", [{"num_rows": 11}, {"seed": 1}, {"batch_size": 2}])
def test_resuming_within_an_epoch_over_other_data_is_refused(change):
    whole = loader()
    next(iter(whole))
    with pytest.raises(ValueError, match="resume with the same data"):
        loader(**change).load_state_dict(whole.state_dict())


@pytest.mark.parametrize("drop_last", [False, True])
def test_resuming_between_epochs_may_change_the_data(drop_last):
    whole = loader(drop_last=drop_last)
    list(whole)
    loader(num_rows=30).load_state_dict(whole.state_dict())


def test_a_state_of_an_earlier_version_goes_on():
    whole = loader()
    next(iter(whole))
    state = whole.state_dict()
    del state["epoch_batches"]
    resumed = loader()
    resumed.load_state_dict(state)
    assert len(list(resumed)) == 3
    with pytest.raises(ValueError, match="resume with the same data"):
        loader(seed=1).load_state_dict(state)
