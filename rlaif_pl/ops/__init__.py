"""Fused ops with PyTorch fallbacks. Import from here; submodules are private."""

from rlaif_pl.ops._library import (
    BUILD_FACTS,
    EXTENSION_LOADED,
    BuildFacts,
    backend_of,
    use_reference,
)
from rlaif_pl.ops.gae import gae
from rlaif_pl.ops.pairwise import pairwise_ce

__all__ = [
    "BUILD_FACTS",
    "EXTENSION_LOADED",
    "BuildFacts",
    "backend_of",
    "gae",
    "pairwise_ce",
    "use_reference",
]
