"""The three modules over the tiny model, each with its data, the same at every call."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.models import ActorCritic, BackboneOptions, Lora, RewardModel
from rlaif_pl.training import (
    A2CModule,
    DPOModule,
    LinearDecay,
    PreferenceDataModule,
    RewardModule,
    SFTModule,
)

LORA = Lora(r=4, alpha=8)
RECIPE = {
    "optimizer": partial(torch.optim.AdamW, lr=1e-2),
    "scheduler": partial(LinearDecay, warmup_steps=2, total_steps=20),
}
Built = tuple[LightningModule, PreferenceDataModule]

SAMPLING = [field.name for field in dataclasses.fields(SamplingParams)]


@pytest.fixture
def backbone(tiny_model_folder) -> BackboneOptions:
    return BackboneOptions(str(tiny_model_folder), trunk_layers=2)


@pytest.fixture
def build(backbone, tiny_reward_folder, data_files) -> Callable[..., Built]:
    """Return a builder of a stage's module and data; keywords go to the module."""

    def build(stage: str, **changes) -> Built:
        settings = {**RECIPE, **changes}
        data = {"batch_size": 4, "validation_fraction": 0.2, "seed": 3}
        if stage == "sft":
            settings = {"backbone": backbone, "lora": LORA, **settings}
            return SFTModule(**settings), PreferenceDataModule(
                "demonstrations", demonstrations=data_files.prompts, **data
            )
        if stage == "dpo":
            settings = {"backbone": backbone, "lora": LORA, **settings}
            return DPOModule(**settings), PreferenceDataModule(
                "pairs", preferences=data_files.pairs, **data
            )
        if stage == "reward":
            reward = settings.pop("reward", None) or RewardModel(backbone, lora=LORA)
            return RewardModule(reward, **settings), PreferenceDataModule(
                "pairs", preferences=data_files.pairs, **data
            )
        actor = settings.pop("actor", None) or ActorCritic(backbone, lora=LORA)
        own = BackboneOptions(str(tiny_reward_folder), trunk_layers=2)
        reward = settings.pop("reward", None) or RewardModel(own, frozen=True)
        given = {key: settings.pop(key) for key in SAMPLING if key in settings}
        sampling = SamplingParams(**{"n": 2, "max_new_tokens": 6, "temperature": 0.9} | given)
        settings = {"sampling": sampling, **settings}
        return A2CModule(actor, reward, **settings), PreferenceDataModule(
            "prompts", prompts=data_files.prompts, **data
        )

    return build


def make_trainer(max_steps: int, folder: Path | None = None, **changes) -> Trainer:
    """Return a silent trainer; with a folder it keeps ``last.ckpt`` of every step there."""
    callbacks = changes.pop("callbacks", [])
    if folder is not None:
        callbacks = [
            *callbacks,
            ModelCheckpoint(folder, save_last=True, save_top_k=0, every_n_train_steps=1),
        ]
    settings = {
        "max_steps": max_steps,
        "max_epochs": -1,
        "accelerator": "cpu",
        "logger": False,
        "callbacks": callbacks,
        "enable_checkpointing": folder is not None,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
    }
    return Trainer(**{**settings, **changes})


@pytest.fixture
def trainer() -> Callable[..., Trainer]:
    """Return the maker of silent trainers."""
    return make_trainer


@pytest.fixture
def weights() -> Callable[[LightningModule], dict[str, Tensor]]:
    """Return a function that copies the trained parameters of a module."""
    return lambda module: {n: p.detach().clone() for n, p in module.trained().items()}
