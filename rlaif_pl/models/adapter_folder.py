"""Folders of adapters alone, as PEFT writes them, where a model is named: base and adapters, folded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple, cast

from transformers import PreTrainedModel

from rlaif_pl.models.lora_layers import require_peft

CONFIG = "adapter_config.json"


class AdapterSource(NamedTuple):
    """What an adapter folder says it belongs to."""

    folder: Path
    base: str
    revision: str | None


def adapter_source(name: str) -> AdapterSource | None:
    """Return what a folder of adapters alone belongs to; None where it is no such folder.

    Args:
        name: Whatever a model is named by. Its base may be a path from here, or from the folder.

    Raises:
        ValueError: adapter_config.json names no base, or the adapters are for no causal LM.
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
    beside = folder / base
    if not Path(base).is_dir() and beside.is_dir():
        base = str(beside)
    return AdapterSource(folder, base, written.get("revision"))


def adapter_identity(folder: Path) -> str:
    """Hash an adapter folder's settings and weights; its place does not matter."""
    digest = hashlib.blake2b(digest_size=16)
    settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    for key in ("base_model_name_or_path", "peft_version", "revision"):
        settings.pop(key, None)
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for path in sorted(folder.glob("adapter_model.*")):
        digest.update(path.read_bytes())
    return f"adapter@{digest.hexdigest()}"


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Fold a folder's adapters into their base, which is changed; give it in float32.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: The adapters do not fit the model.
    """
    peft = require_peft(f"to read the adapters in {folder}")
    try:
        # PEFT would read them to the first GPU, in each process.
        whole = peft.PeftModel.from_pretrained(model, str(folder), torch_device="cpu")
        flat = whole.merge_and_unload(safe_merge=True)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"expected the adapters in {folder} to fit {type(model).__name__}, they do not: "
            f"{str(error).splitlines()[0]}; see base_model_name_or_path in its {CONFIG}"
        ) from error
    return cast(PreTrainedModel, flat)
