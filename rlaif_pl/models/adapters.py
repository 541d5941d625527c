"""Copies of a stack for another role: full copies, or LoRA over shared base weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from rlaif_pl.engine.decoder_layers import text_part
from rlaif_pl.engine.runner import DecoderRunner
from rlaif_pl.models.lora_layers import is_lora, require_peft


@dataclass(frozen=True)
class Lora:
    """Low-rank adaptation (arXiv 2106.09685) of the linear layers of a stack.

    Attributes:
        r: Rank.
        alpha: The update is scaled by ``alpha / r``.
        target_modules: Names of the linear layers to adapt, or the one; ``all-linear`` adapts each.
    """

    r: int = 16
    alpha: int = 32
    target_modules: list[str] | str = field(default="all-linear")


def clone(stack: DecoderRunner, lora: Lora | None, seed: int = 0) -> DecoderRunner:
    """Return a trainable copy of a stack for one role.

    Args:
        stack: The stack to start from; left as it is.
        lora: With it, the copy shares the (frozen) base weights and trains adapters of its own, so
            a role costs only its adapters and the original stays usable as reference. None copies
            and trains every weight. Parts for images or sound are kept as they are either way.
        seed: Seeds the adapters' initial values.

    Raises:
        ImportError: There are to be adapters, and PEFT is not installed.
        ValueError: The stack has adapters already.
    """
    if lora is None:
        twin = copy.deepcopy(stack).requires_grad_(False)
        text_part(twin.decoder).requires_grad_(True)
        return twin
    if has_adapters(stack):
        raise ValueError(
            "expected a stack without adapters, got one with; call merged(stack) first"
        )
    peft = require_peft("to train adapters")
    from rlaif_pl.models.lora_linear import LoraLinear

    twin = shared_copy(stack).requires_grad_(False)
    text = text_part(twin.decoder)
    wanted = lora.target_modules
    targets = [wanted] if isinstance(wanted, str) else list(wanted)
    if wanted == "all-linear":
        linear = [n for n, m in text.named_modules() if isinstance(m, (nn.Linear, Conv1D))]
        targets = sorted({name.rsplit(".", 1)[-1] for name in linear})
    config = peft.LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=targets, bias="none"
    )
    config._register_custom_module({nn.Linear: LoraLinear})
    # PEFT draws on the host. Of GPUs nothing is touched: each process has one of its own later.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        peft.inject_adapter_in_model(config, text)
    return twin


def has_adapters(module: nn.Module) -> bool:
    """Whether some layers hold LoRA adapters."""
    return any(map(is_lora, module.modules()))


def shared_copy(stack: DecoderRunner) -> DecoderRunner:
    """Return a stack of new modules over the same parameters."""
    return copy.deepcopy(stack, memo={id(parameter): parameter for parameter in stack.parameters()})


def merged(stack: DecoderRunner) -> DecoderRunner:
    """Return a float32 copy whose adapters are folded into plain linear layers, ready to be saved.

    Folded in float32: a bfloat16 weight would round most of a small update away.
    """
    flat = copy.deepcopy(stack).float()
    for parent in list(flat.modules()):
        for name, child in list(parent.named_children()):
            if is_lora(child):
                child.merge()
                setattr(parent, name, child.get_base_layer())
    for module in flat.modules():
        vars(module).pop(
            "peft_config", None
        )  # or PEFT warns of a second adapter where there is one
    return flat
