"""Labelers: off-the-shelf language models that say which response is better."""

from rlaif_pl.labeling.backends import EndpointBackend, LocalBackend
from rlaif_pl.labeling.registry import build_labeler
from rlaif_pl.labeling.reward import LabelerReward
from rlaif_pl.labeling.strategies.constitution import ConstitutionLabeler
from rlaif_pl.labeling.strategies.ensemble import EnsembleLabeler
from rlaif_pl.labeling.strategies.free_form import FreeFormLabeler
from rlaif_pl.labeling.strategies.likelihood import LikelihoodLabeler
from rlaif_pl.labeling.strategies.pairwise import PairwiseLabeler
from rlaif_pl.labeling.strategies.scoring import ScoreLabeler

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
