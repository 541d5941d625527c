"""Labelers: off-the-shelf language models that say which response is better."""

from rlaif_pl.labeling.backends import EndpointBackend, LocalBackend
from rlaif_pl.labeling.constitution import ConstitutionLabeler
from rlaif_pl.labeling.ensemble import EnsembleLabeler
from rlaif_pl.labeling.free_form import FreeFormLabeler
from rlaif_pl.labeling.likelihood import LikelihoodLabeler
from rlaif_pl.labeling.pairwise import PairwiseLabeler
from rlaif_pl.labeling.registry import build_labeler
from rlaif_pl.labeling.reward import LabelerReward
from rlaif_pl.labeling.scoring import ScoreLabeler

__all__ = [
    "ConstitutionLabeler",
    "EndpointBackend",
    "EnsembleLabeler",
    "FreeFormLabeler",
    "LabelerReward",
    "LikelihoodLabeler",
    "LocalBackend",
    "PairwiseLabeler",
    "ScoreLabeler",
    "build_labeler",
]
