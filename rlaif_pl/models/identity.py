"""What a model is called in labels: the same on every machine, another where weights differ."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

from transformers import PreTrainedConfig

# Files that decide what a folder's model says; order and names go into the fingerprint.
HASHED = ("*.safetensors", "*.bin", "tokenizer.*", "vocab.*", "merges.txt", "chat_template.jinja")
VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


def weights_identity(
    source: str, config: PreTrainedConfig, revision: str | None, label: str | None = None
) -> str:
    """Hash a folder's contents (its place does not matter); name a hub model by its commit.

    Args:
        source: Folder or hub name.
        config: Configuration of the model.
        revision: Branch, tag or commit of a hub model.
        label: What to call a folder; None calls it by the kind of its model.
    """
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
    return f"{label or config.model_type}@{digest.hexdigest()}"


@functools.lru_cache(maxsize=256)
def _file_hash(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001 - they key the cache
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "blake2b").hexdigest()
