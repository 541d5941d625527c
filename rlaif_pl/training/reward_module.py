"""Fit a reward to soft pairwise preferences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from rlaif_pl.data.sources import Data, load_prompts, named
from rlaif_pl.engine.response_batch import ResponseBatch
from rlaif_pl.models.adapter_export import Form
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.export import check_reward_export
from rlaif_pl.models.reward import RewardModel
from rlaif_pl.training.checkpoints import save_last
from rlaif_pl.training.optimizers import ConstantWithWarmup, FineTuningAdamW
from rlaif_pl.training.pairs_module import PairsModule
from rlaif_pl.training.sharding import Division, divided_like
from rlaif_pl.types import Preference, Prompt

PROBE_ROWS = 16  # pairs computed at once
ITERATIONS = 200  # of L-BFGS, which converges in far fewer


class RewardModule(PairsModule):
    """Cross-entropy between soft labels and the softmax over two rewards.

    ``loss = -p log sigma(r1 - r2) - (1 - p) log sigma(r2 - r1)`` (arXiv 2309.00267, section 2.2.1).
    Pairs of ``PreferenceDataModule`` that the reward cannot tell apart (see
    ``RewardModel.tells_apart``) are left out of training and validation, and counted in a warning.

    Args:
        reward: The model to fit.
        references: Prompts with references whose mean reward is shifted to 0 at the end; None
            leaves the rewards as they are.
        probe_penalty: With it the head starts from a logistic fit on the frozen states of the training
            pairs, with this L2 penalty on weights of standardized features ("linear probing, then
            fine-tuning", Kumar et al. 2022, arXiv 2202.10054); None starts from the random head.
        optimizer: Builds the optimizer; the default rate is 1e-5, 1e-4 where adapters are trained.
        scheduler: Builds the learning-rate schedule, stepped every batch; the default is constant.
        micro_batch_tokens: Tokens that are trained on at a time; see ``TrainableModule``.
    """

    prefix = "reward"
    cut_effect, limit = "it reads nothing of what is behind", "the reward's max_response_tokens"
    divided = Division("reward", ("features",), "reward", unread=("model.unembedding",))
    export_folder = "reward_model"

    def __init__(
        self,
        reward: RewardModel,
        references: Data | None = None,
        probe_penalty: float | None = None,
        optimizer: OptimizerCallable = lambda p: FineTuningAdamW(p, lr=1e-5, adapter_lr=1e-4),
        scheduler: LRSchedulerCallable = ConstantWithWarmup,
        micro_batch_tokens: int | None = None,
    ) -> None:
        super().__init__(optimizer, scheduler, micro_batch_tokens)
        if not isinstance(reward, RewardModel):
            raise TypeError(
                f"expected a RewardModel, got {type(reward).__name__}; make one with "
                "RewardModel.from_pretrained"
            )
        self.reward, self.is_given = reward, reward.is_given
        self.references, self.probe_penalty = references, probe_penalty
        self._first_shift = float(reward.shift)
        self._is_shifted = False  # whether this fit has come to its end

    @override
    def reader(self) -> tuple[CausalModel, int | None]:
        return self.reward.model, self.reward.max_response_tokens

    @override
    def pair_rewards(self, encoded: ResponseBatch) -> Tensor:
        return self.reward.rewards(encoded).view(-1, 2)

    @override
    def on_fit_start(self) -> None:
        self._is_shifted = False
        if self.probe_penalty is None or self.trainer.ckpt_path is not None:
            return  # a resumed run has its head in the checkpoint
        weight = probe(self.reward, self.trainer.datamodule.train_rows, self.probe_penalty)  # type: ignore[attr-defined]
        head = self.reward.head.weight
        with torch.no_grad():
            head.copy_(divided_like(weight.to(head.device), head))

    @override
    def on_train_start(self) -> None:
        super().on_train_start()
        if self.references is not None:  # a checkpoint of an earlier fit's end has that one's shift
            self.reward.shift.fill_(self._first_shift)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"]["reward.shift"] = self.reward.shift.cpu()  # a buffer

    @override
    def on_train_end(self) -> None:
        self.shift_references()
        if self.references is not None:
            save_last(self.trainer, again=True)  # the last step's was saved before the shift
        super().on_train_end()

    @override
    def on_fit_end(self) -> None:
        self.shift_references()  # a fit that goes on from its last step trains nothing

    @override
    def gather_weights(self) -> None:
        self.shift_references()  # an export comes before `on_fit_end`
        super().gather_weights()

    def shift_references(self) -> None:
        """Shift the rewards so that those of the references average 0; once a fit, on every rank."""
        rows = [] if self._is_shifted else self._reference_rows()
        self._is_shifted = True
        if rows:
            self.reward.shift.zero_()  # else a fit that went on would round another sum
            rewards = self.reward.score([r.text for r in rows], [str(r.reference) for r in rows])
            self.reward.shift.fill_(rewards.mean())

    @override
    def export(self, folder: Path, form: Form = "whole") -> Path:
        self.check_export(form)
        whole = self.whole(self.reward)
        whole.shift = self.reward.shift
        return whole.save_pretrained(folder)

    @override
    def check_export(self, form: Form = "whole") -> int:
        if form != "whole":
            raise ValueError(
                f"expected form: whole for a reward model, whose head is no adapter, got {form}"
            )
        return check_reward_export(self.reward.model)

    @override
    def check_inputs(self, trainer: Trainer) -> None:
        self._reference_rows()

    def _reference_rows(self) -> list[Prompt]:
        if self.references is None:
            return []
        rows = [row for row in load_prompts(self.references) if row.reference]
        if not rows:
            raise ValueError(
                f"expected references in {named(self.references).name}, got prompts without any"
            )
        return rows


def fit_probe(differences: Tensor, target: Tensor, weight: Tensor, penalty: float) -> Tensor:
    """``w (D,)`` least in ``mean CE(sigma(w . d), target) + penalty * |w * std(d)|^2``, weighted.

    ValueError: fewer than two pairs ``(N, D)`` have a weight.
    """
    if (counted := int((weight > 0).sum())) < 2:
        raise ValueError(
            "expected at least two training pairs with a weight above 0 for probe_penalty, got "
            f"{counted}; leave it out to start from a random head, or bring more pairs"
        )
    scale = differences.std(0).clamp(min=1e-6)
    inputs = differences / scale
    probe = torch.zeros(differences.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([probe], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = F.binary_cross_entropy_with_logits(inputs @ probe, target, reduction="none")
        loss = (losses * weight).sum() / weight.sum() + penalty * probe.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[arg-type]
    return probe.detach() / scale


@torch.no_grad()
def probe(reward: RewardModel, pairs: Sequence[Preference], penalty: float) -> Tensor:
    """Return a head weight ``(1, D)`` fitted on the states that the head reads of labeled pairs."""
    order = sorted(range(len(pairs)), key=lambda n: len(pairs[n].prompt))
    differences = torch.empty(len(pairs), reward.head.in_features)
    chunks = [order[n : n + PROBE_ROWS] for n in range(0, len(order), PROBE_ROWS)]
    for rows in track(chunks, description="probing"):
        responses = [[pairs[n].first, pairs[n].second] for n in rows]
        batch = reward.encode([pairs[n].prompt for n in rows], responses)
        first, second = reward.features(batch).view(len(rows), 2, -1).unbind(1)
        differences[rows] = (first - second).cpu()
    target = torch.tensor([float(pair.p_first or 0.0) for pair in pairs])
    weight = torch.tensor([pair.weight for pair in pairs])
    return fit_probe(differences, target, weight, penalty)[None]
