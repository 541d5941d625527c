"""Labelers: off-the-shelf language models that say which response is better."""

from rlaif_pl.labeling.backends import EndpointBackend, LocalBackend
from rlaif_pl.labeling.backends.endpoint_http import Retries
from rlaif_pl.labeling.backends.endpoint_request import ServerFeatures
from rlaif_pl.labeling.outcome import VerdictOptions
from rlaif_pl.labeling.prompting.verdicts import ChainOfThought
from rlaif_pl.labeling.registry import build_labeler
from rlaif_pl.labeling.reward import LabelerReward
from rlaif_pl.labeling.strategies.ensemble import EnsembleLabeler
from rlaif_pl.labeling.strategies.likelihood import LikelihoodLabeler
from rlaif_pl.labeling.strategies.listwise import ListwiseLabeler
from rlaif_pl.labeling.strategies.pairwise import (
    ConstitutionLabeler,
    FreeFormLabeler,
    PairwiseLabeler,
)
from rlaif_pl.labeling.strategies.rubric import RubricLabeler
from rlaif_pl.labeling.strategies.scoring import ScoreLabeler
from rlaif_pl.labeling.thinking import Thinking

__all__ = [
    "ChainOfThought",
    "ConstitutionLabeler",
    "EndpointBackend",
    "EnsembleLabeler",
    "FreeFormLabeler",
    "LabelerReward",
    "LikelihoodLabeler",
    "ListwiseLabeler",
    "LocalBackend",
    "PairwiseLabeler",
    "Retries",
    "RubricLabeler",
    "ScoreLabeler",
    "ServerFeatures",
    "Thinking",
    "VerdictOptions",
    "build_labeler",
]
