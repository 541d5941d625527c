"""Reinforcement learning from AI feedback on PyTorch Lightning.

The names below are loaded on first use: importing the package reads neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # what type checkers and editors see of the table
    from rlaif_pl import ops
    from rlaif_pl.api import Samples, evaluate, generate, label
    from rlaif_pl.data.sources import DataSource
    from rlaif_pl.engine.sampling import SamplingParams
    from rlaif_pl.labeling import (
        ConstitutionLabeler,
        EndpointBackend,
        EnsembleLabeler,
        FreeFormLabeler,
        LabelerReward,
        LikelihoodLabeler,
        LocalBackend,
        PairwiseLabeler,
        ScoreLabeler,
    )
    from rlaif_pl.models import ActorCritic, BackboneOptions, Lora, Policy, RewardModel
    from rlaif_pl.rl.objective import Advantages
    from rlaif_pl.rl.shaping import RewardShaping
    from rlaif_pl.text import Template
    from rlaif_pl.training import (
        A2CModule,
        Labeling,
        LinearDecay,
        PreferenceDataModule,
        RewardModule,
        SFTModule,
    )
    from rlaif_pl.types import Preference, Prompt

_HOMES = {
    "A2CModule": "rlaif_pl.training",
    "ActorCritic": "rlaif_pl.models",
    "Advantages": "rlaif_pl.rl.objective",
    "BackboneOptions": "rlaif_pl.models",
    "ConstitutionLabeler": "rlaif_pl.labeling",
    "DataSource": "rlaif_pl.data.sources",
    "EndpointBackend": "rlaif_pl.labeling",
    "EnsembleLabeler": "rlaif_pl.labeling",
    "FreeFormLabeler": "rlaif_pl.labeling",
    "LabelerReward": "rlaif_pl.labeling",
    "Labeling": "rlaif_pl.training",
    "LikelihoodLabeler": "rlaif_pl.labeling",
    "LinearDecay": "rlaif_pl.training",
    "LocalBackend": "rlaif_pl.labeling",
    "Lora": "rlaif_pl.models",
    "PairwiseLabeler": "rlaif_pl.labeling",
    "Policy": "rlaif_pl.models",
    "Preference": "rlaif_pl.types",
    "PreferenceDataModule": "rlaif_pl.training",
    "Prompt": "rlaif_pl.types",
    "RewardModel": "rlaif_pl.models",
    "RewardModule": "rlaif_pl.training",
    "SFTModule": "rlaif_pl.training",
    "Samples": "rlaif_pl.api",
    "SamplingParams": "rlaif_pl.engine.sampling",
    "ScoreLabeler": "rlaif_pl.labeling",
    "RewardShaping": "rlaif_pl.rl.shaping",
    "Template": "rlaif_pl.text",
    "evaluate": "rlaif_pl.api",
    "generate": "rlaif_pl.api",
    "label": "rlaif_pl.api",
    "ops": "rlaif_pl",
}
__all__ = [
    "A2CModule",
    "ActorCritic",
    "Advantages",
    "BackboneOptions",
    "ConstitutionLabeler",
    "DataSource",
    "EndpointBackend",
    "EnsembleLabeler",
    "FreeFormLabeler",
    "LabelerReward",
    "Labeling",
    "LikelihoodLabeler",
    "LinearDecay",
    "LocalBackend",
    "Lora",
    "PairwiseLabeler",
    "Policy",
    "Preference",
    "PreferenceDataModule",
    "Prompt",
    "RewardModel",
    "RewardModule",
    "SFTModule",
    "Samples",
    "SamplingParams",
    "ScoreLabeler",
    "RewardShaping",
    "Template",
    "evaluate",
    "generate",
    "label",
    "ops",
]


def __getattr__(name: str) -> Any:
    """Load a public name on its first use."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if home == __name__:  # a part of the package itself
        return import_module(f"{home}.{name}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
