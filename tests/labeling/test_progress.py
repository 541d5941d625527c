"""Replies are counted on the error stream while a labeler judges, and told to whoever watched."""

import pytest

from rlaif_pl.evaluation.agreement.measure import measure_alignment
from rlaif_pl.evaluation.win_rate import compare
from rlaif_pl.labeling import EnsembleLabeler, LikelihoodLabeler, PairwiseLabeler
from rlaif_pl.statistics import Estimator
from rlaif_pl.types import Preference

PAIRS = [Preference(f"Post {n}.", "It is one.", "It is another.", str(n), 1.0) for n in range(3)]


@pytest.fixture
def labelers(hashed):
    return {
        "likelihood": LikelihoodLabeler(hashed()),
        "pairwise": PairwiseLabeler(hashed()),
        "ensemble": EnsembleLabeler([LikelihoodLabeler(hashed()), PairwiseLabeler(hashed())]),
    }


@pytest.mark.parametrize(
    ("name", "replies"), [("likelihood", 6), ("pairwise", 6), ("ensemble", 12)]
)
def test_an_evaluation_counts_replies(labelers, capsys, name, replies):
    measure_alignment(labelers[name], PAIRS, estimator=Estimator(10))
    assert f"labeling 3 pairs: {replies} replies" in capsys.readouterr().err


def test_a_judge_counts_new_replies_alone_and_its_watch_is_told(labelers, capsys):
    judge, told = labelers["likelihood"], []
    judge.keep_replies(None, lambda call, _: told.append(call))
    texts = [pair.prompt for pair in PAIRS], [["One."]] * 3, [["Another."]] * 3
    compare(*texts, judge, estimator=Estimator(10))
    assert "judging 3 comparisons: 6 replies" in capsys.readouterr().err
    assert len(told) == 6
    compare(*texts, judge, estimator=Estimator(10))
    assert "replies" not in capsys.readouterr().err
    assert len(told) == 6
