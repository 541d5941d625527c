"""Supervised fine-tuning on demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from typing_extensions import override

from rlaif_pl.engine.batch import send
from rlaif_pl.engine.response_batch import ResponseBatch
from rlaif_pl.models.adapters import Lora
from rlaif_pl.models.policy import BackboneOptions, PolicySource, to_train
from rlaif_pl.text import Template
from rlaif_pl.training.base import TrainableModule
from rlaif_pl.training.optimizers import ConstantWithWarmup, FineTuningAdamW
from rlaif_pl.training.sharding import Division
from rlaif_pl.types import Batch, Prompt


class SFTModule(TrainableModule):
    """Fit a policy to references by maximum likelihood of the response tokens.

    A row whose column ``is_finished`` is false, as ReST writes samples that the length limit cut, is
    not taught to end where its reference does.

    Args:
        backbone: Model to start from. In Python also a ``Policy``: one that has weights to train is
            trained itself, so that it has learned when the fit is over.
        lora: Adapters on the layers above the trunk; None trains those layers whole.
        template: How texts are written; None takes what the backbone was trained with, or the default.
        max_response_tokens: Longer references (EOS included) lose their tail, with a warning, and are
            not taught to end there. None takes references whole.
        optimizer: Builds the optimizer; the default rate is 2e-5, 2e-4 where adapters are trained.
        scheduler: Builds the learning-rate schedule, stepped every batch; the default is constant.
        seed: Seeds the adapters.
        micro_batch_tokens: Tokens that are trained on at a time; see ``TrainableModule``.
    """

    task = "demonstrations"
    divided = Division("policy", ("logprobs",), "policy")

    def __init__(
        self,
        backbone: PolicySource = BackboneOptions(),  # noqa: B008 - frozen
        lora: Lora | None = None,
        template: Template | None = None,
        max_response_tokens: int | None = None,
        optimizer: OptimizerCallable = lambda p: FineTuningAdamW(p, lr=2e-5, adapter_lr=2e-4),
        scheduler: LRSchedulerCallable = ConstantWithWarmup,
        seed: int = 0,
        micro_batch_tokens: int | None = None,
    ) -> None:
        super().__init__(optimizer, scheduler, micro_batch_tokens)
        if max_response_tokens is not None and max_response_tokens < 2:
            least = "expected max_response_tokens of at least 2 (a token and EOS)"
            raise ValueError(f"{least}, got {max_response_tokens}")
        self.policy = to_train(backbone, lora, template, seed)
        self.is_given = not isinstance(backbone, BackboneOptions)
        self.max_response_tokens = max_response_tokens

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            references = (row.reference or "" for row in chain(*self.data_rows()))
            effect = (
                "what is behind is not learned, nor where they end; raise it, or leave it out to learn "
                "them whole"
            )
            most = self.max_response_tokens
            self.warn_of_cut(self.policy, references, most, "references", effect)

    @override
    def check_lengths(self, rows: Sequence[Prompt]) -> None:
        texts = ((row.text, [row.reference or ""]) for row in rows)
        self.policy.check_lengths(texts, self.max_response_tokens)

    def forward(self, batch: Batch[Prompt]) -> tuple[Tensor, Tensor]:
        """Return the summed negative log-likelihood in nats and the number of response tokens."""
        encoded, counted = self._encode(batch)
        return -(self.policy.logprobs(encoded) * counted).sum(), counted.sum()

    def _encode(self, batch: Batch[Prompt]) -> tuple[ResponseBatch, Tensor]:
        texts = [[text] for text in batch.given("reference")]
        limit = self.max_response_tokens
        encoded = self.policy.encode(batch.prompts, texts, limit, close_cut=False)
        filler = send(torch.tensor(batch.is_padding), encoded.device)
        counted = encoded.is_response & ~filler[:, None]
        cut = torch.tensor([row.columns.get("is_finished") is False for row in batch.rows])
        is_end = encoded.response_ids == self.policy.encoding.turn.end
        return encoded, counted & ~(is_end & send(cut, encoded.device)[:, None])

    @override
    def training_step(self, batch: Batch[Prompt], batch_idx: int) -> Tensor:
        encoded, counted = self._encode(batch)
        count, means = counted.sum(), []

        def mean(rows: slice) -> Tensor:
            summed = (self.policy.logprobs(encoded.part(rows)) * counted[rows]).sum()
            means.append(-summed / count.clamp(min=1))
            return means[-1]

        parts = encoded.cut(self.micro_batch_tokens)
        loss = self.backward_parts([partial(mean, rows) for rows in parts], count)
        whole = torch.stack([each.detach() for each in means]).sum()
        self.log("sft/train_loss", whole, prog_bar=True, batch_size=len(batch.prompts))
        return loss

    @override
    def validation_step(self, batch: Batch[Prompt], batch_idx: int) -> None:
        total, count = self(batch)
        mean, size = total / count.clamp(min=1), int(count)
        self.log("sft/val_loss", mean, prog_bar=True, batch_size=size, sync_dist=True)
