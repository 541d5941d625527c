import numpy as np
import pytest
import torch

from rlaif_pl.recipes.studies.fitting import Fitter, Recipe, labels_of, merged

RECIPE = Recipe(penalty=0.01, epochs=2, batch_size=4, lr=1e-2)


@pytest.fixture
def fitter(filled, tmp_path):
    return Fitter(filled.reward, filled, RECIPE, tmp_path / "fits")


def test_labels_leave_out_what_has_none():
    labels = labels_of([3, 4, 5], [0.2, None, float("nan")], weight=2.0)
    assert labels.rows.tolist() == [3]
    assert labels.target.tolist() == [0.2]
    assert labels.weight.tolist() == [2.0]


def test_merged_labels_train_as_both_sources_do():
    human, ai = labels_of([0, 1], [1.0, 0.0]), labels_of([1, 2], [0.7, 0.4], 0.5)
    both = merged(human, ai)
    assert both.rows.tolist() == [0, 1, 2]
    assert both.weight.tolist() == [1.0, 1.5, 0.5]
    assert both.target == pytest.approx([1.0, 0.35 / 1.5, 0.4])
    assert both.of(np.array([1])).rows.tolist() == [1]
    # the gradient of the loss by the margin of pair 1, at a margin of 0.3: sum of both or of the one
    p = 1 / (1 + np.exp(-0.3))
    assert both.weight[1] * (p - both.target[1]) == pytest.approx(1.0 * p + 0.5 * (p - 0.7))


def test_the_head_learns_what_people_like(fitter, judged):
    labels = labels_of(range(len(judged)), [pair.p_first for pair in judged])
    train, test = np.arange(16), np.arange(16, 24)
    margins = fitter.margins(labels.of(train), test, "head", seed=0)
    truth = np.array([judged[row].p_first for row in test])
    assert ((margins > 0) == (truth > 0.5)).mean() >= 0.75


def test_training_the_top_changes_margins_and_starts_afresh(fitter, judged):
    labels = labels_of(range(8), [pair.p_first for pair in judged[:8]])
    test = np.arange(16, 24)
    head = fitter.margins(labels, test, "head", 0)
    top = fitter.margins(labels, test, "top", 0)
    assert np.abs(top - head).max() > 1e-3
    fitter.margins(labels_of(range(8), [1 - p.p_first for p in judged[:8]]), test, "top", 0)
    for path in (fitter.folder / "fits").iterdir():
        path.unlink()
    assert fitter.margins(labels, test, "top", 0) == pytest.approx(top, abs=1e-6)


def test_a_finished_fit_is_read_not_repeated(fitter, filled, judged, monkeypatch):
    labels, test = labels_of(range(8), [0.9] * 8), np.arange(16, 20)
    first = fitter.margins(labels, test, "top", seed=1)
    again = Fitter(filled.reward, filled, RECIPE, fitter.folder)
    monkeypatch.setattr(torch.optim, "AdamW", None)  # nothing may be trained
    # the reward's weights have moved, but the key is of the start the first fitter kept
    again.key = fitter.key
    assert again.margins(labels, test, "top", seed=1) == pytest.approx(first)


def test_a_fit_that_diverges_says_what_to_change_and_is_not_kept(fitter, monkeypatch):
    labels, test = labels_of(range(8), [0.9] * 8), np.arange(16, 20)
    judged = lambda rows, *_: torch.full((len(rows), 1), torch.nan)  # noqa: E731
    monkeypatch.setattr(fitter, "_less_second", judged)
    with pytest.raises(ValueError, match="expected finite margins .*; lower recipe.lr"):
        fitter.margins(labels, test, "top", seed=0)
    assert not list(fitter.folder.rglob("*.json"))


def test_no_labels_are_refused(fitter):
    with pytest.raises(ValueError, match="expected labels"):
        fitter.margins(labels_of([], []), np.arange(2), "head", 0)


def test_senseless_recipes_are_refused():
    with pytest.raises(ValueError, match="lr"):
        Recipe(lr=0.0)
