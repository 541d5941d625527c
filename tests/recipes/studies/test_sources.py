import dataclasses
import math

import numpy as np
import pytest

from rlaif_pl.recipes.studies import reward_curve, reward_sources
from rlaif_pl.recipes.studies.fitting import Fitter, Recipe
from rlaif_pl.recipes.studies.sources import cross_fitted, label_twice, smallest_training_part
from rlaif_pl.statistics import Estimator

RECIPE = Recipe(epochs=1, batch_size=8, lr=1e-3)


@pytest.fixture
def twice(judged, machine):
    return label_twice(judged, machine, {"strong": judged[:10]})


@pytest.fixture
def fitter(filled, tmp_path):
    return Fitter(filled.reward, filled, RECIPE, tmp_path / "states")


def test_labels_meet_whichever_response_stands_first(twice):
    # the AI saw the responses the other way round: 0.8 there is 0.2 here, 0.1 is 0.9
    assert twice.ai[:3] == pytest.approx([0.2, 0.1, 0.9])
    assert math.isnan(twice.ai[-1])
    assert np.isfinite(twice.strata["strong"]).sum() == 10


def test_hybrid_has_both_labels_of_each_pair(twice):
    labels = twice.labels("hybrid", ai_weight=0.5)
    assert labels.weight.tolist() == [1.5] * 23 + [1.0]  # the last has no label by the AI
    # (1 x 1.0 + 0.5 x 0.2) / 1.5 and (1 x 0.0 + 0.5 x 0.1) / 1.5
    assert labels.target[:2] == pytest.approx([1.1 / 1.5, 0.05 / 1.5])
    assert len(twice.labels("ai").rows) == 23


def test_unknown_arms_and_strange_files_are_refused(twice, judged):
    with pytest.raises(ValueError, match="human, ai, hybrid"):
        twice.labels("robot")
    with pytest.raises(ValueError, match="none of 0"):
        label_twice(judged, [])


def test_every_pair_is_judged_once_a_seed_by_models_that_never_saw_its_post(
    fitter, twice, monkeypatch
):
    seen = []
    margins = fitter.margins

    def spy(labels, test, method, seed):
        groups = twice.groups
        assert not {groups[r] for r in labels.rows} & {groups[r] for r in test}
        seen.append(sorted(test))
        return margins(labels, test, method, seed)

    monkeypatch.setattr(fitter, "margins", spy)
    result = cross_fitted(fitter, twice, "human", "head", [0, 1], folds=3)
    assert result.shape == (2, 24)
    assert np.isfinite(result).all()
    assert sorted(row for part in seen[:3] for row in part) == list(range(24))


def test_sources_report(fitter, twice, tmp_path):
    seeds = {"head": range(2), "top": range(1)}
    report = reward_sources.compare_sources(
        fitter, twice, ["human", "ai", "hybrid"], seeds, folds=2, estimator=Estimator(50)
    )
    names = [judge.name for judge in report.judges]
    assert names[:3] == ["RLHF, head", "RLAIF, head", "hybrid, head"]
    assert names[-2:] == [reward_sources.LABELER, reward_sources.LENGTH]
    labeler = report.judges[-2].accuracy
    # 22 right, the first wrong, the last without a label counted half
    assert labeler["all"].value == pytest.approx(22.5 / 24)
    assert labeler["strong"].value == pytest.approx(0.9)
    length = report.judges[-1]
    assert length.accuracy["all"].value == 1.0  # the good one is the longer one in every pair
    assert math.isnan(length.ece)
    versus = [c for c in report.comparisons if c.first == "AI labeler itself"]
    # 22 zeros, one -1, one -1/2, all of different posts but for the pairs of one
    assert versus[0].difference.value == pytest.approx(-1.5 / 24)
    assert versus[0].detectable > 0
    results = reward_sources.to_results(report)
    results.write(tmp_path / "out")
    page = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "detectable" in page
    assert "| RLHF, head |" in page
    assert (tmp_path / "out" / "reward_sources.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "out" / "rows.csv").read_text().count("\n") == 1 + 2 * len(names)


def test_every_subset_of_votes_is_drawn(fitter, twice):
    seeds = {"head": range(1), "top": range(1)}
    report = reward_sources.compare_sources(
        fitter, twice, ["human"], seeds, folds=2, estimator=Estimator(20)
    )
    most = [f"c{confidence}" for confidence in (1, 2, 3, 4, 6, 7, 8, 9)]  # of the signed scale
    judges = [
        dataclasses.replace(judge, accuracy=dict.fromkeys(["all", *most], judge.accuracy["all"]))
        for judge in report.judges
    ]
    results = reward_sources.to_results(dataclasses.replace(report, judges=judges))
    legend = results.figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["all", *most]


def test_curve_report(fitter, twice, tmp_path):
    report = reward_curve.draw_curve(
        fitter, twice, ["human", "ai"], [4, 8, 500], range(3), folds=3, estimator=Estimator(50)
    )
    most = smallest_training_part(twice.groups, 3, range(3))
    assert [point.size for point in report.points] == [4, 8, most]
    point = report.points[0]
    gap = point.accuracy["ai"].value - point.accuracy["human"].value
    assert point.gap.value == pytest.approx(gap)
    assert report.length_rule.value == 1.0
    results = reward_curve.to_results(report)
    results.write(tmp_path)
    assert "RLAIF - RLHF" in results.page.markdown()
    assert "curve/ai/4" in results.metrics
