"""What the modules that learn from soft preferences share: the loss of two rewards a pair."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAccuracy
from typing_extensions import override

from rlaif_pl import ops
from rlaif_pl.engine.batch import send
from rlaif_pl.engine.response_batch import ResponseBatch
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.training.base import TrainableModule
from rlaif_pl.training.datamodule import PreferenceDataModule
from rlaif_pl.types import Batch, Preference

IGNORED = -1  # verdict of a pair that counts nowhere


class PairsModule(TrainableModule):
    """Soft cross-entropy ``-p log sigma(r1 - r2) - (1 - p) log sigma(r2 - r1)``, weighted.

    Pairs of ``PreferenceDataModule`` whose responses read the same once they are cut (see
    ``Encoding.tells_apart``) are left out of training and validation, and counted in a warning.
    """

    task = "pairs"
    prefix: ClassVar[str]  # of the names of what is logged
    close_cut: ClassVar[bool] = True  # whether a response that is cut ends in EOS
    cut_effect: ClassVar[str]  # what comes of cutting one
    limit: ClassVar[str] = "max_response_tokens"  # what a user raises, so that fewer are cut

    def __init__(
        self,
        optimizer: OptimizerCallable,
        scheduler: LRSchedulerCallable,
        micro_batch_tokens: int | None = None,
    ) -> None:
        super().__init__(optimizer, scheduler, micro_batch_tokens)
        self.val_loss = MeanMetric()
        self.val_accuracy = BinaryAccuracy(ignore_index=IGNORED)

    def reader(self) -> tuple[CausalModel, int | None]:
        """Return the model that reads the pairs, and how many tokens of a response, None for all."""
        raise NotImplementedError

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        model, most = self.reader()
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, PreferenceDataModule) and most is not None:
            reason = (
                f"their responses are identical once cut to {most} tokens, so that they teach and "
                f"measure nothing; raise {self.limit}"
            )
            data.keep_rows(self.tells_apart, reason)
        if stage == "fit":
            texts = (text for row in chain(*self.data_rows()) for text in (row.first, row.second))
            effect = f"{self.cut_effect}; raise {self.limit}"
            self.warn_of_cut(model, texts, most, "responses", effect)

    def tells_apart(self, pairs: Sequence[Preference]) -> list[bool]:
        """Whether what is read of a pair's two responses differs; one answer a pair."""
        model, most = self.reader()
        texts = [(pair.first, pair.second) for pair in pairs]
        return model.encoding.tells_apart(texts, most, close_cut=self.close_cut)

    @override
    def check_lengths(self, rows: Sequence[Preference]) -> None:
        model, most = self.reader()
        model.check_lengths(((row.prompt, [row.first, row.second]) for row in rows), most)

    def encode(self, batch: Batch[Preference]) -> ResponseBatch:
        """Encode the pairs of a batch, each prompt once for both responses."""
        model, most = self.reader()
        responses = [(row.first, row.second) for row in batch.rows]
        return model.encode(batch.prompts, responses, most, close_cut=self.close_cut)

    def pair_rewards(self, encoded: ResponseBatch) -> Tensor:
        """Rewards of both responses of each pair, with gradient. ``(N, 2)``."""
        raise NotImplementedError

    def forward(self, batch: Batch[Preference]) -> tuple[Tensor, Tensor]:
        """Return the loss in nats and the reward margin of each pair, both ``(N,)``."""
        first, second = self.pair_rewards(self.encode(batch)).unbind(1)
        return ops.pairwise_ce(first, second, *labels(batch, first.device)), first - second

    def sums(self, rewards: Tensor, target: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Further sums over pairs to log the means of; rewards ``(N, 2)`` without gradient."""
        del rewards, target, weights
        return {}

    @override
    def training_step(self, batch: Batch[Preference], batch_idx: int) -> Tensor:
        encoded = self.encode(batch)
        target, weights = labels(batch, encoded.device)
        weight = weights.sum()
        total, found = weight.clamp(min=1e-12), []

        def mean(rows: slice) -> Tensor:
            rewards = self.pair_rewards(encoded.part(rows))
            first, second = rewards.unbind(1)
            sums = ops.pairwise_ce_sums(first, second, target[rows], weights[rows])
            facts = {"loss": sums.loss.detach(), "accuracy": sums.num_correct}
            facts["margin"] = sums.margin
            facts |= self.sums(rewards.detach(), target[rows], weights[rows])
            found.append({name: fact.to(total.dtype) for name, fact in facts.items()})
            return sums.loss / total

        parts = encoded.cut(self.micro_batch_tokens)
        loss = self.backward_parts([partial(mean, rows) for rows in parts], weight)
        for name in found[0]:
            value = torch.stack([part[name] for part in found]).sum() / total
            key, shown = f"{self.prefix}/train_{name}", name == "loss"
            self.log(key, value, prog_bar=shown, batch_size=len(batch.rows))
        return loss

    @override
    def validation_step(self, batch: Batch[Preference], batch_idx: int) -> None:
        losses, margin = self(batch)
        target, weight = labels(batch, losses.device)
        verdict = (target > 0.5).int().masked_fill(weight == 0, IGNORED)
        # In bf16-true every move makes it a metric of 16 bits, where a sum of ones stops at 256.
        self.val_loss.set_dtype(torch.promote_types(self.val_loss.weight.dtype, torch.float32))
        self.val_loss.update(losses / weight.clamp(min=1e-12), weight)
        self.val_accuracy.update(margin.sigmoid(), verdict)
        size = len(batch.rows)
        self.log(f"{self.prefix}/val_loss", self.val_loss, prog_bar=True, batch_size=size)
        self.log(f"{self.prefix}/val_accuracy", self.val_accuracy, prog_bar=True, batch_size=size)


def labels(batch: Batch[Preference], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return how likely the first is better, and the weight (0 of a filler). Both ``(N,)`` float32."""
    rows = zip(batch.rows, batch.is_padding, strict=True)
    weights = [0.0 if filler else row.weight for row, filler in rows]
    both = torch.tensor([batch.given("p_first"), weights], dtype=torch.float32)
    target, weight = send(both, device).unbind()
    return target, weight
