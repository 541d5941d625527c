"""What a model is called in labels: the same on every machine, another where weights differ."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

# Files that decide what a folder's model says; order and names go into the fingerprint.
HASHED = ("*.safetensors", "*.bin", "tokenizer.*", "vocab.*", "merges.txt", "chat_template.jinja")
UNNAMED = "unnamed"  # fingerprint of weights that were trained or handed over; see weights_digest
# Of a tokenizer_config.json, what decides what is asked; models without it keep their older name.
ASKED = ("chat_template", "add_bos_token", "add_eos_token")
VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


def weights_identity(
    source: str, config: PreTrainedConfig, revision: str | None, label: str | None = None
) -> str:
    """Hash a folder's contents (its place does not matter); name a hub model by its commit."""
    folder = Path(source)
    if not folder.is_dir():
        commit = getattr(config, "_commit_hash", None) or revision or "main"
        return f"{source}@{commit}"
    names = {path for pattern in HASHED for path in folder.glob(pattern)}
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(names):
        stat = path.stat()
        digest.update(f"{path.name}:{_file_hash(path, stat.st_size, stat.st_mtime_ns)};".encode())
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    plain = {key: value for key, value in settings.items() if key not in VOLATILE}
    digest.update(json.dumps(plain, sort_keys=True).encode())
    path = folder / "tokenizer_config.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if asked := {key: tokenizer[key] for key in ASKED if key in tokenizer}:
        digest.update(json.dumps(asked, sort_keys=True).encode())
    return f"{label or config.model_type}@{digest.hexdigest()}"


def weights_digest(tensors: Iterable[tuple[str, Tensor]], config: Mapping[str, Any]) -> str:
    """Hash weights, names and settings that decide what they compute; a second a gigabyte.

    Of several names of one weight the first counts.
    """
    digest = hashlib.blake2b(digest_size=16)
    plain = {key: value for key, value in config.items() if key not in VOLATILE}
    digest.update(json.dumps(plain, sort_keys=True, default=str).encode())
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in tensors:
        place = tensor.data_ptr(), tensor.shape
        if place not in seen:
            seen.add(place)
            digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype};".encode())
            flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(flat.numpy().data)
    return digest.hexdigest()


@functools.lru_cache(maxsize=256)
def _file_hash(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001 - they key the cache
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "blake2b").hexdigest()
