import dataclasses
import math

import numpy as np
import pytest

from rlaif_pl.recipes.studies import reward_studies
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
    results = reward_studies.compare_sources(
        fitter, twice, ["human", "ai", "hybrid"], seeds, folds=2, estimator=Estimator(50)
    )
    judges, differences = results.tables
    names = [row[0] for row in judges.rows]
    assert names[:3] == ["RLHF, head", "RLAIF, head", "hybrid, head"]
    assert names[-2:] == [reward_studies.LABELER, reward_studies.LENGTH]
    found = results.metrics
    # 22 right, the first wrong, the last without a label counted half
    assert found["sources/ai_labeler_itself/accuracy_all"] == pytest.approx(22.5 / 24)
    assert found["sources/ai_labeler_itself/accuracy_strong"] == pytest.approx(0.9)
    # the good one is the longer one in every pair
    assert found["sources/longer_one_wins/accuracy_all"] == 1.0
    assert "sources/ai_labeler_itself/ece" in found
    assert "sources/longer_one_wins/ece" not in found
    assert {row["ece"] for row in results.records if row["votes"] != "all"} == {""}
    # 22 zeros, one -1, one -1/2, all of different posts but for the pairs of one
    versus = "sources/ai_labeler_itself_minus_longer_one_wins"
    assert found[versus] == pytest.approx(-1.5 / 24)
    assert found[f"{versus}_detectable"] > 0
    assert len(differences.rows) == 2 * 3 + 3 + 7  # arms of a method, methods of an arm, the rule
    results.write(tmp_path / "out")
    page = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "detectable" in page
    assert "| RLHF, head |" in page
    assert (tmp_path / "out" / "reward_sources.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "out" / "rows.csv").read_text().count("\n") == 1 + 2 * len(names)


def test_every_subset_of_votes_is_drawn(fitter, twice):
    seeds = {"head": range(1), "top": range(1)}
    most = [f"c{confidence}" for confidence in (1, 2, 3, 4, 6, 7, 8, 9)]  # of the signed scale
    data = dataclasses.replace(twice, strata=dict.fromkeys(most, twice.human))
    results = reward_studies.compare_sources(
        fitter, data, ["human"], seeds, folds=2, estimator=Estimator(20)
    )
    legend = results.figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["all", *most]


def test_curve_report(fitter, twice, tmp_path):
    results = reward_studies.draw_curve(
        fitter, twice, ["human", "ai"], [4, 8, 500], range(3), folds=3, estimator=Estimator(50)
    )
    most = smallest_training_part(twice.groups, 3, range(3))
    assert [row[0] for row in results.tables[0].rows] == [4, 8, most]
    found = results.metrics
    gap = found["curve/ai/4"] - found["curve/human/4"]
    assert found["curve/gap/4"] == pytest.approx(gap)
    assert found["curve/length_rule"] == 1.0
    results.write(tmp_path)
    assert "RLAIF - RLHF" in results.page.markdown()


def test_a_curve_of_one_arm_has_no_gap(fitter, twice):
    results = reward_studies.draw_curve(
        fitter, twice, ["human"], [4], range(1), folds=3, estimator=Estimator(20)
    )
    assert "RLAIF - RLHF" not in results.page.markdown()
    assert not [key for key in results.metrics if "gap" in key]


def test_pairs_that_all_agree_do_not_detect_every_difference():
    same = np.ones(40)
    difference, detectable = reward_studies._gap(
        same, same, [str(n) for n in range(40)], Estimator(50)
    )
    assert difference.value == 0
    assert detectable == pytest.approx(2.8 / 1.96 * difference.high, rel=0.01)
