"""Frozen weights that no name in a config can load again: checkpoints hold a hash of them."""

from __future__ import annotations

from typing import Any

from torch import nn

from rlaif_pl.models.identity import weights_digest

KEY = "rlaif_pl_frozen"


def frozen_digest(module: nn.Module) -> str:
    """Return a hash of the weights that are not trained."""
    named = module.named_parameters()
    return weights_digest([(name, p) for name, p in named if not p.requires_grad], {})


def check_frozen(checkpoint: dict[str, Any], digest: str, name: str) -> None:
    """Refuse a checkpoint of other models than the module holds."""
    if checkpoint[KEY] != digest:
        raise ValueError(
            f"expected the models that this checkpoint of {name} was trained from, got others: "
            "they were given in memory, so no name can load them again, and the checkpoint holds "
            "only what was trained. Make them as then (same base, trunk_layers, lora and dtype) and "
            f"pass them: trainer.fit(module, data, ckpt_path=...), or {name}.load_from_checkpoint("
            "path, ...) with the constructor's arguments. Policy.save_pretrained(folder) writes a "
            "model that loads by name"
        )
