"""Checkpoints on disk: written aside and renamed, with a checksum, and never unpickled.

A file that is there is whole. The one it replaced stays beside it (``last.previous.ckpt``) until the
next is to be written: a disk that loses bytes costs one interval, not the run. A checkpoint of divided
weights may be a folder with a file a process.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, NoReturn

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from transformers import PreTrainedTokenizerBase
from typing_extensions import override

from rlaif_pl.data.checksum import DamagedFileError, is_whole, parts_of, previous_of, seal, verify
from rlaif_pl.data.disk import replaced
from rlaif_pl.models.backbone import EMBEDDED
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.model_info import UNNAMED
from rlaif_pl.training.sharding import DIVIDED, joined

# Keys of a checkpoint: what its models were, by place, and a hash of frozen weights without a name.
MODELS, FROZEN = "rlaif_pl_models", "rlaif_pl_frozen"
LIGHTNING = "pytorch-lightning_version"  # key that all of its checkpoints have


class ChecksumCheckpointIO(TorchCheckpointIO):
    """Lightning's plugin for files on local disks; addresses (``s3://...``) are left to Lightning."""

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        if storage_options is not None or is_remote(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write_checkpoint(checkpoint, Path(path))

    @override
    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        if is_remote(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        return read_checkpoint(Path(path), map_location)

    @override
    def remove_checkpoint(self, path: Any) -> None:
        super().remove_checkpoint(path)
        if not is_remote(path):
            remove(previous_of(Path(path)))


def is_remote(path: object) -> bool:
    """Tell whether a path is an address that another file system understands."""
    return "://" in str(path)


def refuse_address(place: object) -> None:
    """Refuse an address (``s3://...``) for a checkpoint with a file a process; ValueError."""
    if is_remote(place):
        raise ValueError(
            f"expected a local folder for checkpoints with a file a process, got {place}; set "
            "save_distributed_checkpoint: false in trainer.strategy.init_args for one file"
        )


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint that is the old one or the whole new one, whatever happens (OSError)."""
    kept = previous_of(path)
    if path.exists():  # first, so that no more than two files are there at any time
        remove(kept)
    if path.is_dir():
        path.rename(kept)
    # one name: what a kill leaves of it is written over
    with replaced(path, path.with_name(f".{path.name}.partial")) as file:
        writer = _Writer(file)
        writer.save(content)
        seal(file, writer.digest.hexdigest())
        with suppress(OSError):  # nothing there yet, or a file system without hard links
            os.link(path, kept)


def put_in_place(work: Path, path: Path) -> None:
    """Let a finished folder take a checkpoint's place; for a moment only the one before it is there."""
    if path.exists():
        remove(previous_of(path))
        path.rename(previous_of(path))
    work.rename(path)


def remove(path: Path) -> None:
    """Remove a checkpoint of either form, or a link to one, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class _Writer:
    """A file that adds up what is written; keeps the system's error, which torch loses."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def save(self, content: Mapping[str, Any]) -> None:
        try:
            torch.save(content, self)  # type: ignore[arg-type] # it asks for write and flush only
        except RuntimeError:
            if self.error is None:
                raise
        if self.error is not None:
            raise self.error

    def write(self, data: bytes) -> int:
        try:
            count = self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise
        self.digest.update(data)
        return count

    def flush(self) -> None:
        """Leave it to the end."""


def read_checkpoint(
    path: Path, map_location: Any = "cpu", *, sum_up: bool = True, mmap: bool = False
) -> dict[str, Any]:
    """Read a checkpoint of Lightning, a file or a folder with one a process: tensors, values, no code.

    ``sum_up`` compares it with its checksum (one without, of an earlier version, is warned of);
    ``mmap`` leaves tensors on disk until they are used. FileNotFoundError: there is none. ValueError:
    it is damaged, cut, pickled, or no checkpoint of Lightning; says which, and what beside it is whole.
    """
    if not path.exists():
        raise FileNotFoundError(f"expected a checkpoint at {path}, found none; check the name")
    try:
        if path.is_dir():
            files = parts_of(path)
            parts = [read_checkpoint(f, map_location, sum_up=sum_up, mmap=mmap) for f in files]
            return parts[0] | {k: joined([p[k] for p in parts]) for k in DIVIDED if k in parts[0]}
        if sum_up and not verify(path):
            unknown = (
                "has no checksum (an earlier version or another program wrote it): read as it is"
            )
            warnings.warn(f"{path} {unknown}", stacklevel=2)
        content = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
        if isinstance(content, dict) and content.keys() >= {"state_dict", LIGHTNING}:
            return content
        is_named = isinstance(content, dict)
        held = sorted(map(str, content))[:5] if is_named else type(content).__name__
        raise DamagedFileError(f"a file of torch that holds {held}, and no state of a training")
    except (DamagedFileError, UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        found = f"an archive torch cannot read ({error})"
        if isinstance(error, DamagedFileError):
            found = str(error)
        elif isinstance(error, UnpicklingError):
            found = "Python objects beside tensors and plain values, which would run code when read"
        whole = [str(p) for p in sorted(path.parent.glob("*.ckpt")) if p != path and is_whole(p)]
        others = f" (whole: {', '.join(whole[:3])})" if whole else ""
        raise ValueError(
            f"expected a checkpoint of Lightning at {path}, got {found}; name another with "
            f"--ckpt_path{others}, or leave that out to start over"
        ) from error


def save_last(trainer: Trainer, again: bool = False) -> None:
    """Save this step's ``last.ckpt`` where a callback keeps one, if not yet, or (``again``) anew."""
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint) or not callback.save_last:
            continue
        if again:
            callback._last_global_step_saved = 0
        if callback._should_skip_saving_checkpoint(trainer):
            continue
        given, callback.save_last = callback.save_last, True  # a link would be to an earlier step's
        callback._save_last_checkpoint(trainer, callback._monitor_candidates(trainer))
        callback.save_last = given


def note_resumed(trainer: Trainer) -> None:
    """Tell callbacks, as Lightning forgets, that the checkpoint a fit resumes from is their last.

    Else a fit that has nothing left to train would replace its own end.
    """
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint) or not trainer.ckpt_path:
            continue
        last = Path(callback.last_model_path)
        if last.resolve() == Path(trainer.ckpt_path).resolve():
            callback._last_global_step_saved = trainer.global_step
            callback._last_checkpoint_saved = callback.last_model_path


def models_of(module: LightningModule) -> dict[str, dict[str, str]]:
    """Describe trained language models by their place: what two share whose weights are exchanged."""
    found: dict[str, dict[str, str]] = {}
    for name, model in module.named_modules():
        if isinstance(model, CausalModel) and any(p.requires_grad for p in model.parameters()):
            text = model.config.get_text_config()
            size = f"{text.num_hidden_layers} layers, width {text.hidden_size}"
            architecture = f"{model.config.model_type} of {size}, {text.vocab_size} tokens"
            digest = tokenizer_digest(model.tokenizer)
            found[name] = {"architecture": architecture, "tokenizer": digest}
            is_part = any(not p.requires_grad for p in model.parameters())
            if is_part and model.started_from != UNNAMED:  # a checkpoint lacks what is not trained
                base, _, _ = model.started_from.rpartition(":")  # whatever the precision
                found[name]["base"] = base
    return found


def are_other_bases(one: str, other: str) -> bool:
    """Whether fingerprints are sure to be of other weights: of two hub names, or of files that differ.

    A folder may hold a hub's model; a hub's commit may change its card alone; and the embedded model is
    converted anew by another version of transformers.
    """
    (name, _, mark), (other_name, _, other_mark) = one.partition("@"), other.partition("@")
    by_files = {re.match("[0-9a-f]{32}:", each) is not None for each in (mark, other_mark)}
    if by_files == {True}:
        return mark != other_mark and {name, other_name} != {EMBEDDED}
    return by_files == {False} and name != other_name


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash a vocabulary with its ids, in 12 hexadecimal digits."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items())).encode()
    return hashlib.sha256(vocabulary).hexdigest()[:12]


def check_fits(
    module: LightningModule, trained: Mapping[str, torch.Tensor], checkpoint: Mapping[str, Any]
) -> None:
    """Refuse a checkpoint of another architecture, tokenizer or weights before any is put anywhere."""

    def refuse(expected: str) -> NoReturn:
        raise ValueError(
            f"expected a checkpoint {expected}; use the config the checkpoint was written with"
        )

    written, state = checkpoint.get(MODELS, {}), checkpoint["state_dict"]
    for name, found in models_of(module).items() if written else ():
        for part, value in found.items():
            other = written.get(name, {}).get(part, value)
            if part == "base" and other != value and not are_other_bases(value, other):
                rank_zero_warn(
                    f"the base of {name} is {value}, and the checkpoint was trained over {other}: "
                    "these names do not tell whether the weights are the same; go on if they are"
                )
            elif other != value:
                refuse(f"with the {part} of {name} ({value}), got one of another {part} ({other})")
    if missing := sorted(trained.keys() - state.keys()):
        refuse(f"of this configuration, it lacks {missing[:3]}")
    for name, parameter in trained.items():
        sizes = tuple(state[name].shape), tuple(parameter.shape)
        if sizes[0] != sizes[1]:
            refuse(f"of this configuration, its {name} is {sizes[0]} in place of {sizes[1]}")


def check_frozen(checkpoint: Mapping[str, Any], digest: str, name: str) -> None:
    """Refuse a checkpoint of other frozen weights, which no name in a config can load again."""
    if checkpoint[FROZEN] != digest:
        raise ValueError(
            f"expected the models that this checkpoint of {name} was trained from, got others: "
            "they were given in memory, so no name can load them again, and the checkpoint holds "
            "only what was trained. Make them as then (same base, trunk_layers, lora and dtype) and "
            f"pass them: trainer.fit(module, data, ckpt_path=...), or {name}.load_from_checkpoint("
            "path, ...) with the constructor's arguments. Policy.save_pretrained(folder) writes a "
            "model that loads by name"
        )
