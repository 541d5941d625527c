"""What the three LightningModules share: one optimizer, lean checkpoints, an export."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import Optimizer
from typing_extensions import override


class TrainableModule(LightningModule):
    """A LightningModule that checkpoints only what it trains.

    Frozen weights come from the named backbone, so a checkpoint of adapters is megabytes.

    Args:
        optimizer: Builds the optimizer from parameters.
        scheduler: Builds the learning-rate schedule, stepped every batch.

    Attributes:
        serves: Kind of batch that the module reads; empty for any.
    """

    serves: ClassVar[str] = ""

    def __init__(self, optimizer: OptimizerCallable, scheduler: LRSchedulerCallable) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.strict_loading = False

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that are trained, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def build_optimizer(self) -> Optimizer:
        """Build the one optimizer; modules with several learning rates give it groups."""
        return self.optimizer(self.trained().values())

    @override
    def setup(self, stage: str) -> None:
        if stage == "predict":
            raise ValueError(
                f"expected a LabelingModule for predict, got {type(self).__name__}, which predicts "
                "nothing; fit trains it and validate measures it"
            )
        check_served(self, self.serves)

    @override
    def configure_optimizers(self) -> Any:
        optimizer = self.build_optimizer()
        schedule = {"scheduler": self.scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = self.trained().keys()
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: state[name] for name in state if name in kept}

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        missing = self.trained().keys() - checkpoint["state_dict"].keys()
        if missing:
            raise ValueError(
                f"expected a checkpoint of this configuration, it lacks {sorted(missing)[:3]}; "
                "use the config the checkpoint was written with"
            )

    @override
    def on_train_start(self) -> None:
        # Dropout stays off in every stage: the log-ratio must be 0 at the first step. Not at the
        # start of an epoch: a fit that resumes within one has no such start.
        self.eval()
        self.train_checkpointed_layers()

    def train_checkpointed_layers(self) -> None:
        """Put trained layers that recompute activations in train mode, where transformers does it.

        Frozen ones stay in eval mode: they recompute nothing, and in train mode would keep no cache.
        """
        for module in self.modules():
            recomputes = getattr(module, "gradient_checkpointing", False)
            if recomputes and any(p.requires_grad for p in module.parameters()):
                module.train()

    def export(self, folder: Path) -> Path:
        """Write the trained model as a plain transformers folder.

        Args:
            folder: Where to.

        Returns:
            The folder.
        """
        raise TypeError(f"{type(self).__name__} has nothing to export to {folder}")


def check_served(module: LightningModule, wanted: str) -> None:
    """Refuse a data module that serves another kind of batch than the module reads.

    Args:
        module: Module whose trainer has the data.
        wanted: The kind; empty for any.

    Raises:
        ValueError: Another kind is served.
    """
    served = getattr(getattr(module.trainer, "datamodule", None), "serve", wanted)
    if wanted and served != wanted:
        raise ValueError(
            f"expected data.serve to be {wanted!r} for {type(module).__name__}, got {served!r}; "
            f"set data.serve and name its data"
        )


def rank_share(count: Tensor) -> Tensor:
    """Return how much of a batch is on this rank: its count over the mean count of all ranks.

    Distributed strategies average gradients over ranks as if all had as much to average. A rank's
    mean loss times its share gives the mean over what all ranks have, so that two ranks do what
    one does with both batches, fillers and uneven lengths included. 1 in a single process.

    Args:
        count: What this rank's loss is a mean over: tokens, rows or weights. A scalar.
    """
    own = count.detach().float()
    if not (dist.is_available() and dist.is_initialized()):
        return torch.ones_like(own)
    total = own.clone()
    dist.all_reduce(total)
    return own * dist.get_world_size() / total.clamp(min=1e-12)


def mean_over_ranks(total: Tensor, count: Tensor) -> Tensor:
    """Return the sum of ``total`` over the sum of ``count``, both over all ranks; 0 without any.

    Args:
        total: Sum of this rank's values. A scalar.
        count: How many they are. A scalar.
    """
    sums = torch.stack([total.detach().double(), count.detach().double()])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)
    return sums[0] / sums[1].clamp(min=1)
