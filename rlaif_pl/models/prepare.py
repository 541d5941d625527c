"""Changes to a model before it is used: no dropout, recomputed activations, the type of its weights."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel


def drop_dropout(holder: PreTrainedConfig | nn.Module) -> None:
    """Turn dropout off: with it the log-ratio to the reference is not 0 at the first step."""
    own = holder.get_text_config() if isinstance(holder, PreTrainedConfig) else holder
    for name, value in list(vars(own).items()):
        if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
            setattr(own, name, 0.0)


def recompute_activations(model: PreTrainedModel) -> None:
    """Let a model recompute its activations in the backward pass, in train mode."""
    # transformers renames it from gradient_ to activation_; the argument stays the first
    old = model.gradient_checkpointing_enable
    getattr(model, "activation_checkpointing_enable", old)({"use_reentrant": False})


def cast_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Bring parameters to a type; buffers stay (rotary frequencies need float32)."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
