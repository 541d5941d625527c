import numpy as np
import pytest

from rlaif_pl.recipes.studies.sources import draw_subset, fold_of

GROUPS = [f"p{n // 2}" for n in range(20)]  # ten posts of two pairs


def test_a_post_is_in_one_fold_and_folds_are_alike():
    fold = fold_of(GROUPS, 5, seed=1)
    assert (fold[0::2] == fold[1::2]).all()
    assert np.bincount(fold).tolist() == [4] * 5


def test_seeds_choose_other_folds():
    assert (fold_of(GROUPS, 5, 0) != fold_of(GROUPS, 5, 1)).any()
    assert (fold_of(GROUPS, 5, 0) == fold_of(GROUPS, 5, 0)).all()


@pytest.mark.parametrize("folds", [1, 11])
def test_folds_must_fit_the_posts(folds):
    with pytest.raises(ValueError, match="number of posts"):
        fold_of(GROUPS, folds, 0)


def test_smaller_subsets_are_part_of_larger_ones():
    rows = np.arange(4, 20)
    small, large = (draw_subset(rows, GROUPS, size, seed=3) for size in (5, 9))
    assert len(small) == 5
    assert set(small) <= set(large) <= set(rows)
    assert (np.sort(small) == small).all()


def test_subsets_take_whole_posts_first():
    chosen = draw_subset(np.arange(20), GROUPS, 6, seed=0)
    assert len({GROUPS[row] for row in chosen}) == 3


def test_a_subset_of_more_than_there_is_is_all():
    assert draw_subset(np.arange(4), GROUPS, 99, seed=0).tolist() == [0, 1, 2, 3]


def test_an_empty_subset_is_refused():
    with pytest.raises(ValueError, match="at least 1 pair"):
        draw_subset(np.arange(4), GROUPS, 0, seed=0)
