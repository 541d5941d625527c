"""Losses that are means over an optimizer step's batch, however its rows are cut and spread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from rlaif_pl.training.ranks import over_ranks, rank_share


class StepMeanModule(LightningModule):
    """A LightningModule whose loss is a mean over a step.

    The mean is over all ranks, all of ``trainer.accumulate_grad_batches`` and all parts that a batch is
    cut into to bound its memory: losses are divided by what the whole batch has to average, so that the
    step is the same however it is cut.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counts: list[Tensor] = []  # of the micro-batches of this step, on this rank
        self._unit = torch.ones(())  # what losses of this step were divided by

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that are trained, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def weighted(self, loss: Tensor, count: Tensor) -> Tensor:
        """Weigh a micro-batch's mean loss over ``count`` by its share of the optimizer step's batch.

        Lightning averages over the parts of a step (``accumulate_grad_batches``), and distributed
        strategies over ranks, as if each had as much to average. How much all of them have is known
        when the last is computed, so losses are weighted relative to the first part, and the
        gradient is put right in ``optimizer_step``. Without a trainer each batch is a step.
        """
        return loss * self.weight_of(count.detach().to(loss.dtype))

    def weight_of(self, count: Tensor) -> Tensor:
        """Return what ``weighted`` multiplies a mean with; to be asked once a micro-batch."""
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
        if len(losses) == 1:
            return self.weighted(losses[0](), count)
        # Ranks may have one part and several: what they ask one another comes in the same order, the
        # loss's own questions (whitening) before the weights.
        loss = losses[0]()
        weight = self.weight_of(count.detach().to(loss.dtype))
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
        """Make the accumulated gradient that of the mean over the step's batch; see ``weighted``."""
        counts, self._counts = self._counts, []
        if not counts:
            return
        total, ranks = over_ranks(torch.stack(counts).sum())
        factor = (self._parts * ranks * self._unit / total.clamp(min=1e-12)).item()
        for parameter in self.trained().values():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
