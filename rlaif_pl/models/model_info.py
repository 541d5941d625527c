"""What a model's files say: ends, padding, vocabulary and longest text; its name in labels."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

# Files that decide what a folder's model says; order and names go into the fingerprint.
HASHED = ("*.safetensors", "*.bin", "tokenizer.*", "vocab.*", "merges.txt", "chat_template.jinja")
UNNAMED = "unnamed"  # fingerprint of weights that were trained or handed over; see weights_digest
# Of a tokenizer_config.json, what decides what is asked; models without it keep their older name.
ASKED = ("chat_template", "add_bos_token", "add_eos_token")
VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


@dataclass(frozen=True)
class ModelInfo:
    """Facts about one model that sampling, scoring, labeling and export share."""

    name: str  # folder or name of the model, for messages
    # token that closes a response: the tokenizer's, else the config's; None where neither names one
    eos_token_id: int | None
    # all tokens that end a text: those of tokenizer, config.json and generation_config.json
    stop_token_ids: frozenset[int]
    # id that fills padded places, a row of the embedding; masks, never ids, say what is padding
    pad_token_id: int
    vocab_size: int  # logits from here on belong to no token of the tokenizer
    unused_token_ids: tuple[int, ...] = ()  # ids below `vocab_size` that the tokenizer lacks too
    # longest text in tokens, prompt and response; None where the config names none
    max_model_len: int | None = None
    # as it lay beside the weights; None for a model that does not write
    generation_config: GenerationConfig | None = None

    def check_length(self, prompt: int, response: int, cut: str) -> None:
        """Refuse (ValueError) a text that is too long; ``cut`` names what shortens responses."""
        if self.max_model_len is not None and prompt + response > self.max_model_len:
            raise ValueError(
                f"expected prompt and response within the {self.max_model_len} tokens of "
                f"{self.name} (max_position_embeddings in its config.json), got "
                f"{prompt + response}: a prompt of {prompt} and up to {response} of response; "
                f"shorten prompts (template.max_prompt_words) or {cut}, or take a model with a "
                "longer context"
            )


def model_info(
    name: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, written: dict[str, Any]
) -> ModelInfo:
    """Gather the facts about a model; ``name`` is its folder or name, for messages.

    ``written`` is config.json as written: a class's default for ``eos_token_id`` is not the model's.
    ``ValueError``: its texts could have tokens that the model lacks.
    """
    head = model.get_output_embeddings() or model.get_input_embeddings()
    rows = int(cast(Tensor, head.weight).shape[0])
    generation_config = getattr(model, "generation_config", None)  # a classifier has none
    in_config = written.get("eos_token_id")
    if in_config is None and isinstance(written.get("text_config"), dict):
        in_config = written["text_config"].get("eos_token_id")
    named = [*_ids(tokenizer.eos_token_id), *_ids(in_config)]
    if not getattr(generation_config, "_from_model_config", False):
        named += _ids(getattr(generation_config, "eos_token_id", None))
    ends = [number for number in dict.fromkeys(named) if 0 <= number < rows]
    vocabulary, added = tokenizer.get_vocab(), tokenizer.added_tokens_decoder
    # special ones, such as a pad token that nothing here reads, are in no text
    special = {number for number, token in added.items() if token.special}
    if lost := [token for token, n in vocabulary.items() if n >= rows and n not in special]:
        raise ValueError(
            f"expected a row of the embedding of {name} for each token of its tokenizer, got {rows} "
            f"rows and {len(vocabulary)} tokens, {lost[0]!r} without one; take the tokenizer that "
            "belongs to it, or resize its embedding (resize_token_embeddings) and train that"
        )
    known = {number for number in vocabulary.values() if number < rows}
    size = max(known, default=rows - 1) + 1
    pads = [*_ids(tokenizer.pad_token_id), *ends, 0]
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return ModelInfo(
        name=name,
        eos_token_id=ends[0] if ends else None,
        stop_token_ids=frozenset(ends),
        pad_token_id=next(number for number in pads if 0 <= number < rows),
        vocab_size=size,
        unused_token_ids=tuple(sorted(set(range(size)) - known)),
        max_model_len=int(limit) if isinstance(limit, int) and limit > 0 else None,
        generation_config=generation_config,
    )


def require_eos(info: ModelInfo, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that closes responses (ValueError: none), named in a tokenizer without one."""
    number = info.eos_token_id
    token = None if number is None else tokenizer.convert_ids_to_tokens(number)
    if number is None or token is None:
        raise ValueError(
            f"expected an end token in the tokenizer of {info.name}, got none that the model has: "
            "tokenizer_config.json names no eos_token, config.json and generation_config.json no "
            f"eos_token_id; set eos_token in {info.name}/tokenizer_config.json to the token that "
            "ends a text"
        )
    if tokenizer.eos_token_id != number:
        warnings.warn(
            f"the tokenizer of {info.name} names no eos_token of the model; responses end in "
            f"{token!r} (id {number}), which its config names",
            stacklevel=2,
        )
        tokenizer.eos_token = str(token)
    return number


def exported_generation_config(info: ModelInfo) -> GenerationConfig | None:
    """Return the generation configuration to lay beside trained weights, with every end token.

    One that transformers reads and refuses to write (a temperature without sampling) keeps its ids
    alone.
    """
    if info.generation_config is None:
        return None
    kept = copy.deepcopy(info.generation_config)
    closing, rest = info.eos_token_id, sorted(info.stop_token_ids - {info.eos_token_id})
    kept.eos_token_id = [closing, *rest] if rest and closing is not None else closing
    try:
        kept.validate(strict=True)
    except ValueError as error:
        warnings.warn(
            f"generation_config.json of {info.name} is not kept but for its token ids: "
            f"{str(error).splitlines()[0]}",
            stacklevel=2,
        )
        ids = {name: getattr(kept, name) for name in ("bos_token_id", "pad_token_id")}
        return GenerationConfig(eos_token_id=kept.eos_token_id, **ids)
    return kept


def _ids(named: Any) -> list[int]:
    """Token ids that a file names: one, several or none."""
    listed = named if isinstance(named, list | tuple) else [named]
    return [int(number) for number in listed if number is not None]


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
