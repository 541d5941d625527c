"""Fused ops with PyTorch fallbacks. Import from here; submodules are private."""

from rlaif_pl.ops._library import EXTENSION_LOADED, backend_of, use_reference
from rlaif_pl.ops._products import device_memory, linear_logits, widened_once
from rlaif_pl.ops.gae import KLGae, gae, kl_gae
from rlaif_pl.ops.linear import linear_logprob
from rlaif_pl.ops.pairwise import PairwiseSums, pairwise_ce, pairwise_ce_sums
from rlaif_pl.ops.reference import accumulator_dtype, wide_dtype

__all__ = [
    "EXTENSION_LOADED",
    "PairwiseSums",
    "KLGae",
    "accumulator_dtype",
    "backend_of",
    "device_memory",
    "gae",
    "linear_logits",
    "linear_logprob",
    "pairwise_ce",
    "pairwise_ce_sums",
    "kl_gae",
    "use_reference",
    "wide_dtype",
    "widened_once",
]
