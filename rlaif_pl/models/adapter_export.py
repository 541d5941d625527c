"""Write a policy's adapters alone, as a PEFT folder that peft, transformers and vLLM load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from rlaif_pl.engine.decoder_layers import decoder_of, text_part
from rlaif_pl.models.adapters import has_adapters, is_lora, require_peft
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.export import check_policy_export, commit_of, name_in_whole, save_policy
from rlaif_pl.models.model_folder import replaced_whole
from rlaif_pl.models.text_format import TextFormat, model_card

if TYPE_CHECKING:
    from peft import LoraConfig

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of names in PEFT's files
Form = Literal["whole", "adapter"]


def export_policy(folder: str | Path, model: CausalModel, form: Form = "whole") -> Path:
    """Write a policy: with its adapters folded in, or those alone."""
    return save_policy(folder, model) if form == "whole" else save_adapter(folder, model)


def check_export(model: CausalModel, form: Form = "whole") -> int:
    """Refuse, before training, what ``export_policy`` could not write; bytes that it will take."""
    return check_policy_export(model) if form == "whole" else check_adapter_export(model)


def check_adapter_export(model: CausalModel) -> int:
    """Refuse (ValueError), before training, what ``save_adapter`` could not write; bytes it will take.

    The policy may have no adapters, or some that are not on the weights that its base names.
    """
    if not has_adapters(model.top):
        raise ValueError(
            "expected a policy with adapters to export them alone, got one that is trained whole; set "
            "lora, or export it whole (ExportModel: form: whole)"
        )
    if not model.rests_on_base:
        raise ValueError(
            f"expected adapters on all layers of {model.base} as it is saved to export them alone, got "
            "some on fewer (num_layers), or on a model that was trained or handed over in memory, "
            "which would be lost; export it whole, or name the saved SFT folder as backbone"
        )
    return sum(4 * value.numel() for value in _weights(model, "").values())


@torch.no_grad()
def save_adapter(folder: str | Path, model: CausalModel, *, card: bool = True) -> Path:
    """Write a policy's adapters as a PEFT folder that peft, transformers and vLLM load.

    It is replaced whole or not at all. ``card``: lay a README.md beside them, and how texts are read.
    """
    check_adapter_export(model)
    with replaced_whole(folder) as work:
        save_file(_weights(model, _decoder_name(model)), work / WEIGHTS, metadata={"format": "pt"})
        _config(model).save_pretrained(str(work))
        if card:
            text = model_card("adapter", model.base, model.template)
            (work / "README.md").write_text(text, encoding="utf-8")
            TextFormat(model.template).save(work)
    return Path(folder)


def _config(model: CausalModel) -> LoraConfig:
    """Describe the adapters, layers below the top left out."""
    peft = require_peft("to write adapters")
    layers = {n: m for n, m in model.top.decoder.named_modules() if is_lora(m)}
    first = next(iter(layers.values()))
    config: LoraConfig = peft.LoraConfig(
        r=int(first.r["default"]),
        lora_alpha=int(first.lora_alpha["default"]),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules=sorted({name.rsplit(".", 1)[-1] for name in layers}),
        fan_in_fan_out=isinstance(first.get_base_layer(), Conv1D),
        base_model_name_or_path=model.base,
        revision=commit_of(model),
    )
    if model.trunk is not None:
        names = {name.partition(".")[0] for name in layers}
        config.layers_pattern = sorted(names)
        count = len(cast(nn.ModuleList, getattr(model.top.decoder, min(names))))
        below = model.trunk.num_layers
        config.layers_to_transform = list(range(below, below + count))
    config.inference_mode = True
    return config


def _weights(model: CausalModel, decoder: str) -> dict[str, Tensor]:
    """Adapters in float32 under the names that PEFT gives those of the whole, uncut model."""
    found: dict[str, Tensor] = {}
    text = text_part(model.top.decoder)
    inner = "" if text is model.top.decoder else "language_model."
    for name, value in text.state_dict().items():
        if ".lora_" in name:
            name = name_in_whole(model, name).replace(".default.", ".")
            found[f"{PREFIX}{decoder}{inner}{name}"] = value.detach().float().cpu().contiguous()
    return found


def _decoder_name(model: CausalModel) -> str:
    """Where the decoder lies in the whole model, with a dot; empty where it is all of it."""
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(model.config)
    decoder = decoder_of(whole)
    name = next(name for name, module in whole.named_modules() if module is decoder)
    return f"{name}." if name else ""
