from pathlib import Path

import pytest
from torch import nn

from rlaif_pl.labeling import (
    ConstitutionLabeler,
    EnsembleLabeler,
    FreeFormLabeler,
    LikelihoodLabeler,
    PairwiseLabeler,
    ScoreLabeler,
    build_labeler,
)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("likelihood", LikelihoodLabeler),
        ("pairwise", PairwiseLabeler),
        ("free_form", FreeFormLabeler),
        ("score", ScoreLabeler),
        ("constitution", ConstitutionLabeler),
    ],
)
def test_every_short_name_builds_its_labeler(name, kind):
    built = build_labeler(name)
    assert isinstance(built, kind)
    assert getattr(built, "strategy", name) == name


def test_options_are_passed_on():
    assert build_labeler("likelihood", temperature=0.3).temperature == 0.3
    assert build_labeler("pairwise", task="helpful").prompt_version == "helpful-detailed-1"
    members = [build_labeler("score"), build_labeler("pairwise")]
    assert isinstance(build_labeler("ensemble", labelers=members), EnsembleLabeler)


def test_what_is_no_labeler_and_what_is_no_back_end_are_refused():
    for given, said in ((lambda pairs: 0.5, "got <lambda>"), (ScoreLabeler, "got ScoreLabeler")):
        with pytest.raises(TypeError, match=rf"object with fingerprint and label\(pairs\), {said}"):
            build_labeler(given)
    with pytest.raises(TypeError, match="back end, or the name or folder of a model, got Linear"):
        LikelihoodLabeler(nn.Linear(1, 1))
    assert LikelihoodLabeler(Path("somewhere")).backend.model.options.name == "somewhere"


def test_a_finished_labeler_passes_through():
    labeler = build_labeler("likelihood")
    assert build_labeler(labeler) is labeler
    with pytest.raises(ValueError, match="where it is built"):
        build_labeler(labeler, temperature=1.0)


def test_mistakes_name_what_there_is():
    with pytest.raises(
        ValueError, match=r"'likelihood', 'listwise', 'pairwise', 'rubric', 'score'"
    ):
        build_labeler("likelyhood")
    with pytest.raises(ValueError, match=r"temprature.*temperature"):
        build_labeler("likelihood", temprature=1.0)
    with pytest.raises(ValueError, match=r"needs \['labelers'\].*class_path"):
        build_labeler("ensemble")
