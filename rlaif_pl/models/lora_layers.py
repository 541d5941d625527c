"""LoRA layers in a model: PEFT's, which is imported where adapters are made or read, and only there."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any, TypeGuard

from torch import nn


class LoraLayer(nn.Module):
    """What this package asks of PEFT's LoRA layers, for type checkers; no layer is one of these."""

    r: dict[str, int]
    lora_alpha: dict[str, int]

    def merge(self) -> None:
        """Fold the adapters into the base layer."""

    def get_base_layer(self) -> nn.Module:
        """Return the layer that is adapted."""
        raise NotImplementedError


def is_lora(module: Any) -> TypeGuard[LoraLayer]:
    """Whether a layer holds LoRA adapters; none does where PEFT was never imported."""
    lora = sys.modules.get("peft.tuners.lora")
    return lora is not None and isinstance(module, lora.LoraLayer)


def require_peft(purpose: str) -> ModuleType:
    """Import PEFT.

    Args:
        purpose: What it is needed for, as in "to train adapters".

    Raises:
        ImportError: The package peft is not installed.
    """
    try:
        return importlib.import_module("peft")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"expected the package peft {purpose}, it is not installed ({error}); install it (pip "
            "install peft), or leave lora out to train weights whole"
        ) from error
