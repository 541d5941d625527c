"""Freed tensors on the CPU leave no holes in a fit's memory."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from rlaif_pl.engine.allocator import page_tensors
from rlaif_pl.errors import above


class CompactMemory(Callback):
    """Lets every larger tensor on the CPU have pages of its own, which go back when it is freed.

    glibc cuts tensors of up to 32 MiB out of its heap, where what a forward pass frees lies in holes.
    Pages of their own cost page faults instead: less memory, somewhat more time. It holds for the
    whole process; without glibc nothing happens.

    Args:
        threshold_kb: Tensors of at least so many KiB get pages of their own, above 0.
    """

    def __init__(self, threshold_kb: int = 128) -> None:
        above(0, threshold_kb=threshold_kb)
        self.threshold_kb = threshold_kb

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        page_tensors(self.threshold_kb)
