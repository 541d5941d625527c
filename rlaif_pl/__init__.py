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
    from rlaif_pl.rl.function_reward import WeightedRewards
    from rlaif_pl.rl.objective import Advantages
    from rlaif_pl.rl.shaping import RewardShaping
    from rlaif_pl.text import Template
    from rlaif_pl.training import (
        A2CModule,
        DPOModule,
        Labeling,
        LinearDecay,
        PreferenceDataModule,
        RewardModule,
        SFTModule,
    )
    from rlaif_pl.types import Preference, Prompt

_NAMES = {
    "rlaif_pl": "ops",
    "rlaif_pl.api": "Samples evaluate generate label",
    "rlaif_pl.data.sources": "DataSource",
    "rlaif_pl.engine.sampling": "SamplingParams",
    "rlaif_pl.labeling": "ConstitutionLabeler EndpointBackend EnsembleLabeler FreeFormLabeler "
    "LabelerReward LikelihoodLabeler LocalBackend PairwiseLabeler ScoreLabeler",
    "rlaif_pl.models": "ActorCritic BackboneOptions Lora Policy RewardModel",
    "rlaif_pl.rl.function_reward": "WeightedRewards",
    "rlaif_pl.rl.objective": "Advantages",
    "rlaif_pl.rl.shaping": "RewardShaping",
    "rlaif_pl.text": "Template",
    "rlaif_pl.training": "A2CModule DPOModule Labeling LinearDecay PreferenceDataModule RewardModule "
    "SFTModule",
    "rlaif_pl.types": "Preference Prompt",
}  # public names by their modules
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_HOMES)


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
