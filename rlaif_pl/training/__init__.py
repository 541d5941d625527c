"""The LightningModules and the data module they share."""

from rlaif_pl.data.labeling_pass import Labeling
from rlaif_pl.training.a2c_module import A2CModule
from rlaif_pl.training.datamodule import PreferenceDataModule
from rlaif_pl.training.dpo_module import DPOModule
from rlaif_pl.training.labeling_module import LabelingModule
from rlaif_pl.training.optimizers import ConstantWithWarmup, FineTuningAdamW, LinearDecay
from rlaif_pl.training.reward_module import RewardModule
from rlaif_pl.training.sft_module import SFTModule

__all__ = [
    "A2CModule",
    "ConstantWithWarmup",
    "DPOModule",
    "FineTuningAdamW",
    "Labeling",
    "LabelingModule",
    "PreferenceDataModule",
    "RewardModule",
    "SFTModule",
    "LinearDecay",
]
