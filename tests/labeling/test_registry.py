import pytest

from rlaif_pl.labeling.likelihood import LikelihoodLabeler
from rlaif_pl.labeling.pairwise import PairwiseLabeler
from rlaif_pl.labeling.registry import build_labeler


def test_short_names_and_options():
    built = build_labeler("likelihood", temperature=0.3)
    assert isinstance(built, LikelihoodLabeler)
    assert built.temperature == 0.3
    assert isinstance(build_labeler("pairwise", prompt="helpful-base-1"), PairwiseLabeler)


def test_a_finished_labeler_passes_through():
    labeler = build_labeler("likelihood")
    assert build_labeler(labeler) is labeler
    with pytest.raises(ValueError, match="where it is built"):
        build_labeler(labeler, temperature=1.0)


def test_mistakes_name_what_there_is():
    with pytest.raises(ValueError, match=r"\['likelihood', 'pairwise'\]"):
        build_labeler("likelyhood")
    with pytest.raises(ValueError, match="temprature.*temperature"):
        build_labeler("likelihood", temprature=1.0)
