"""Splits by prompt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif_pl.data.splits import group_position, split_by_group
from rlaif_pl.types import Preference, Prompt

ROWS = [Prompt(f"text {n}", f"g{n // 3}") for n in range(300)]


def groups(rows):
    return {row.group for row in rows}


@given(st.randoms(), st.floats(0.01, 0.99), st.integers(0, 5))
def test_a_split_is_whole_groups_and_does_not_depend_on_the_order(random, fraction, seed):
    train, held_out = split_by_group(ROWS, fraction, seed)
    assert sorted([*train, *held_out], key=ROWS.index) == ROWS
    assert not groups(train) & groups(held_out)
    assert train
    assert held_out
    shuffled = random.sample(ROWS, len(ROWS))
    assert groups(split_by_group(shuffled, fraction, seed)[1]) == groups(held_out)


def test_about_the_asked_share_is_held_out():
    rows = [Prompt("t", f"g{n}") for n in range(10_000)]
    # standard deviation of a share of 0.1 of 10,000 is 0.003; 4 of them
    assert abs(len(split_by_group(rows, 0.1)[1]) / 10_000 - 0.1) < 0.012


def test_more_rows_move_no_group_and_kinds_of_rows_agree():
    _, held_out = split_by_group(ROWS[:150], 0.3, seed=2)
    _, more = split_by_group(ROWS, 0.3, seed=2)
    assert groups(held_out) == groups(more) & groups(ROWS[:150])
    pairs = [Preference(row.text, "a", "b", row.group) for row in ROWS]
    assert groups(split_by_group(pairs, 0.3, seed=2)[1]) == groups(more)


def test_seeds_give_different_splits():
    assert groups(split_by_group(ROWS, 0.3, 0)[1]) != groups(split_by_group(ROWS, 0.3, 1)[1])


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_neither_side_is_empty_with_two_groups(fraction):
    train, held_out = split_by_group(ROWS[:6], fraction)
    assert (len(train), len(held_out)) == (3, 3)


def test_nothing_is_held_out_at_zero():
    assert split_by_group(ROWS, 0.0) == (ROWS, [])


def test_one_group_or_a_wrong_fraction_is_refused():
    with pytest.raises(ValueError, match="at least 2 prompts"):
        split_by_group(ROWS[:3], 0.5)
    for fraction in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"fraction in \[0, 1\)"):
            split_by_group(ROWS, fraction)


def test_a_position_is_a_fixed_number():
    # blake2b(b"0/g", digest_size=6) little endian over 2**48, pinned so that no release moves it
    assert group_position("g", 0) == 0.42044392482537774
