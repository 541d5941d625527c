"""LoRA: copies of a stack for another role, and folders of adapters alone, as PEFT writes them.

PEFT is imported where adapters are made or read, and only there.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeGuard, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rlaif_pl.engine.decoder_layers import text_part
from rlaif_pl.engine.runner import DecoderRunner
from rlaif_pl.errors import above, at_least

CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Lora:
    """Low-rank adaptation (arXiv 2106.09685) of the linear layers of a stack.

    Attributes:
        r: Rank, at least 1.
        alpha: The update is scaled by ``alpha / r``; above 0.
        target_modules: Names of the linear layers to adapt, or the one; ``all-linear`` adapts each.
    """

    r: int = 16
    alpha: int = 32
    target_modules: list[str] | str = "all-linear"

    def __post_init__(self) -> None:
        at_least(1, r=self.r)
        above(0, alpha=self.alpha)


def is_lora(module: Any) -> TypeGuard[Any]:
    """Whether a layer holds LoRA adapters; none does where PEFT was never imported."""
    lora = sys.modules.get("peft.tuners.lora")
    return lora is not None and isinstance(module, lora.LoraLayer)


def has_adapters(module: nn.Module) -> bool:
    """Whether some layers hold LoRA adapters."""
    return any(map(is_lora, module.modules()))


def require_peft(purpose: str) -> ModuleType:
    """Import PEFT for a purpose, as in "to train adapters". ``ImportError``: it is not installed."""
    try:
        return importlib.import_module("peft")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"expected the package peft {purpose}, it is not installed ({error}); install it (pip "
            "install peft), or leave lora out to train weights whole"
        ) from error


def clone(stack: DecoderRunner, lora: Lora | None, seed: int = 0) -> DecoderRunner:
    """Return a trainable copy of a stack for one role; the original stays usable as reference.

    With LoRA the copy shares the (frozen) base weights and trains adapters of its own, drawn by
    ``seed``, so a role costs only its adapters. Without, every weight is copied and trained. Parts for
    images or sound are kept as they are either way. ``ValueError``: the stack has adapters already.
    ``TypeError``: ``lora`` is no ``Lora``.
    """
    if not isinstance(lora, Lora | None):
        raise TypeError(
            f"expected lora as a Lora, got {type(lora).__name__}; write Lora(r=16, alpha=32), or leave "
            "it out to train weights whole"
        )
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
    for module in flat.modules():  # or PEFT warns of a second adapter where there is one
        vars(module).pop("peft_config", None)
    return flat


class AdapterSource(NamedTuple):
    """What a folder of adapters says it belongs to."""

    folder: Path
    base: str
    revision: str | None


def adapter_source(name: str) -> AdapterSource | None:
    """Return what a folder of adapters alone belongs to; None where it is no such folder.

    Its base may be a path from here, or from the folder. ``ValueError``: adapter_config.json names no
    base, or the adapters are for no causal LM.
    """
    folder = Path(name)
    if not (folder / CONFIG).is_file() or (folder / "config.json").is_file():
        return None
    written = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    base, task = written.get("base_model_name_or_path"), written.get("task_type")
    if not base:
        raise ValueError(
            f"expected {folder / CONFIG} to name a base model (base_model_name_or_path), got "
            f"{base!r}; write the folder or hub name of the model the adapters were trained on there"
        )
    if task not in (None, "CAUSAL_LM"):
        raise ValueError(
            f"expected adapters of a causal LM (task_type CAUSAL_LM) in {folder}, got {task}; merge "
            "them with PeftModel.merge_and_unload() and save model and tokenizer"
        )
    if not Path(base).is_dir() and (folder / base).is_dir():
        base = str(folder / base)
    return AdapterSource(folder, base, written.get("revision"))


def adapter_identity(folder: Path) -> str:
    """Hash an adapter folder's settings and weights; its place does not matter."""
    settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    for key in ("base_model_name_or_path", "peft_version", "revision"):
        settings.pop(key, None)
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    for path in sorted(folder.glob("adapter_model.*")):
        digest.update(path.read_bytes())
    return f"adapter@{digest.hexdigest()}"


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Fold a folder's adapters into their base, which is changed; ValueError where they do not fit."""
    peft = require_peft(f"to read the adapters in {folder}")
    try:
        # PEFT would read them to the first GPU, in each process.
        whole = peft.PeftModel.from_pretrained(model, str(folder), torch_device="cpu")
        if not hasattr(whole.base_model, "merge_and_unload"):
            kind = getattr(whole.active_peft_config.peft_type, "value", "others")
            raise ValueError(f"{kind} cannot be folded into weights, as LoRA can")
        return cast(PreTrainedModel, whole.merge_and_unload(safe_merge=True))
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"expected the adapters in {folder} to fit {type(model).__name__}, they do not: "
            f"{str(error).splitlines()[0]}; see base_model_name_or_path in its {CONFIG}"
        ) from error
