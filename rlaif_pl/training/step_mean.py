"""Losses that are means over an optimizer step's batch, however its rows are cut and spread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import Optimizer
from typing_extensions import override

from rlaif_pl.ops import wide_dtype


def has_ranks() -> bool:
    """Whether several processes train."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def over_ranks(count: Tensor) -> tuple[Tensor, int]:
    """Return the sum of a tensor over all ranks, and how many they are."""
    if not has_ranks():
        return count, 1
    total = count.clone()
    dist.all_reduce(total)
    return total, dist.get_world_size()


def rank_share(count: Tensor) -> Tensor:
    """Return how much of a batch is on this rank: its count over the mean count of all ranks.

    Strategies average gradients over ranks as if all had as much to average. A rank's mean loss times
    its share gives the mean over what all ranks have, fillers and uneven lengths included.
    """
    own = count.detach()
    own = own if own.is_floating_point() else own.float()
    total, ranks = over_ranks(own)
    return torch.ones_like(own) if ranks == 1 else own * ranks / total.clamp(min=1e-12)


def mean_over_ranks(total: Tensor, count: Tensor) -> Tensor:
    """Return the sum of ``total`` over the sum of ``count``, both over all ranks; 0 without any."""
    wide = wide_dtype(total.device)
    sums, _ = over_ranks(torch.stack([total.detach().to(wide), count.detach().to(wide)]))
    return sums[0] / sums[1].clamp(min=1)


class StepMeanModule(LightningModule):
    """A LightningModule whose loss is a mean over a step: all its ranks, batches and parts of these."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: list[Tensor] = []  # of the micro-batches of this step, on this rank
        self._unit = torch.ones(())  # what losses of this step were divided by

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that are trained, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def _weight_of(self, count: Tensor) -> Tensor:
        """Return what a micro-batch's mean loss over ``count`` is multiplied with; once for each.

        Lightning averages over the parts of a step, and strategies over ranks, as if each had as much
        to average. All is known with the last part, so losses are weighted relative to the first, and
        the gradient is put right in ``finish_step``. Without a trainer each batch is a step.
        """
        if self._parts == 1:
            return rank_share(count)
        if not self._counts:
            total, ranks = over_ranks(count)
            self._unit = torch.where(total > 0, total / ranks, 1.0)
        self._counts.append(count)
        return count / self._unit

    def backward_parts(self, losses: Sequence[Callable[[], Tensor]], count: Tensor) -> Tensor:
        """Run parts of a batch forward and backward one after the other, to hold one at a time.

        Each computes its share of the mean loss over ``count``. Returns the last one's loss, whose
        backward pass is the caller's; before it gradients stay on this rank.
        """
        # Ranks may have one part and several: what they ask one another comes in the same order, the
        # loss's own questions (whitening) before the weights.
        loss = losses[0]()
        weight = self._weight_of(count.detach().to(loss.dtype))
        for compute in losses[1:]:
            if self._trainer is None:
                (loss * weight).backward()  # type: ignore[no-untyped-call]
            else:
                share = loss * weight / self._parts
                # As the last part's: in autocast, gradients that are computed in float32 were not.
                with torch.autocast(share.device.type, enabled=False):
                    self.trainer.strategy.backward(share, None)
            loss = compute()
        return loss * weight

    @override
    def optimizer_zero_grad(self, *_: Any) -> None:
        """Do nothing: it comes after the first parts' backward passes; see ``optimizer_step``."""

    @property
    def _parts(self) -> int:
        """Micro-batches of an optimizer step; the last of an epoch may have fewer."""
        return 1 if self._trainer is None else self.trainer.accumulate_grad_batches

    @override
    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        def closure() -> Any:  # as Lightning's own, which the hooks before a step follow
            result = None if optimizer_closure is None else optimizer_closure()
            self.finish_step()
            return result

        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        optimizer.zero_grad()

    @torch.no_grad()
    def finish_step(self) -> None:
        """Make the accumulated gradient that of the mean over the step's batch."""
        counts, self._counts = self._counts, []
        if not counts:
            return
        total, ranks = over_ranks(torch.stack(counts).sum())
        factor = (self._parts * ranks * self._unit / total.clamp(min=1e-12)).item()
        for parameter in self.trained().values():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
