"""What the rewards of a run cost, where a labeler gives them."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from rlaif_pl.labeling.reward import LabelerReward


class RewardCost(Callback):
    """Logs calls, tokens and money of a ``LabelerReward`` after every training batch.

    ``labeler_reward/run_*`` counts what this process asked for since it started;
    ``labeler_reward/calls``, ``read_tokens``, ``written_tokens`` and ``paid_usd`` add up the whole
    file of replies, attempts before a kill and all processes of the machine included.
    """

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _reward_of(pl_module)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        pl_module.log_dict(_reward_of(pl_module).to_metrics("labeler_reward"), batch_size=1)


def _reward_of(module: LightningModule) -> LabelerReward:
    reward = getattr(module, "reward", None)
    if not isinstance(reward, LabelerReward):
        raise ValueError(
            f"RewardCost: expected {type(module).__name__} to have a LabelerReward, got "
            f"{type(reward).__name__}; leave this callback out"
        )
    return reward
