"""Labelers: off-the-shelf language models that say which response is better."""

from rlaif_pl.labeling.backends import LocalBackend
from rlaif_pl.labeling.likelihood import LikelihoodLabeler
from rlaif_pl.labeling.pairwise import PairwiseLabeler
from rlaif_pl.labeling.registry import build_labeler

__all__ = ["LikelihoodLabeler", "LocalBackend", "PairwiseLabeler", "build_labeler"]
