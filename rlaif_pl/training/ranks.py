"""Sums and shares over the processes that train together."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist

from rlaif_pl.ops import wide_dtype


def has_ranks() -> bool:
    """Whether several processes train."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def over_ranks(count: Tensor) -> tuple[Tensor, int]:
    """Return the sum of a scalar over all ranks, and how many they are."""
    if not has_ranks():
        return count, 1
    total = count.clone()
    dist.all_reduce(total)
    return total, dist.get_world_size()


def rank_share(count: Tensor) -> Tensor:
    """Return how much of a batch is on this rank: its count over the mean count of all ranks.

    Distributed strategies average gradients over ranks as if all had as much to average. A rank's
    mean loss times its share gives the mean over what all ranks have, so that two ranks do what
    one does with both batches, fillers and uneven lengths included. 1 in a single process.
    """
    own = count.detach()
    own = own if own.is_floating_point() else own.float()
    total, ranks = over_ranks(own)
    return torch.ones_like(own) if ranks == 1 else own * ranks / total.clamp(min=1e-12)


def mean_over_ranks(total: Tensor, count: Tensor) -> Tensor:
    """Return the sum of ``total`` over the sum of ``count``, both over all ranks; 0 without any."""
    wide = wide_dtype(total.device)
    sums = torch.stack([total.detach().to(wide), count.detach().to(wide)])
    if has_ranks():
        dist.all_reduce(sums)
    return sums[0] / sums[1].clamp(min=1)
