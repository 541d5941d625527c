"""Put a written model folder in its place, and never in that of something else."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from rlaif_pl.models.tokenizer_files import FILES

CONFIGS = ("config.json", "adapter_config.json")  # a folder with neither holds no model
OURS = (
    *FILES,
    *("*.safetensors", "*.bin", "*.safetensors.index.json", "*.bin.index.json"),
    *("config.json", "*_config.json", "rlaif_pl.json"),
    *("vocab*", "*.txt", "*.model", "*.spm", "*.tiktoken", "*.jinja"),  # of other tokenizers
    *("modeling_*.py", "configuration_*.py", "tokenization_*.py"),  # of models with code
    *("README.md", ".DS_Store"),
)
TEMPLATES = "additional_chat_templates"  # the one folder that transformers writes below a model


def check_place(folder: str | Path) -> None:
    """Refuse a place for a model where something else stands.

    Nothing, an empty folder and a model that was written earlier may be replaced.

    Raises:
        ValueError: A file stands there, or a folder with anything but a model's files.
    """
    folder = Path(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(
            f"expected for a model a folder at {folder} or nothing, got a file; name a new folder, or "
            "move the file away"
        )
    names = {path.name: path.is_dir() for path in folder.iterdir()}
    odd = [f"{name}/" for name, is_folder in names.items() if is_folder and name != TEMPLATES]
    odd += [name for name, is_folder in names.items() if not is_folder and not _is_ours(name)]
    if names and not odd and not any(name in names for name in CONFIGS):
        odd = list(names)  # such as a README.md alone
    if odd:
        more = f" and {len(odd) - 4} more" if len(odd) > 4 else ""
        raise ValueError(
            f"expected nothing, an empty folder or an earlier model at {folder}, which a model written "
            f"there replaces whole, got {', '.join(sorted(odd)[:4])}{more}; name a new folder"
        )


@contextmanager
def replaced_whole(folder: str | Path) -> Iterator[Path]:
    """Give a folder to write a model in, which takes its place when all went well.

    Args:
        folder: Where the model is to stand; an older model there is replaced.

    Raises:
        ValueError: Something else stands there; see ``check_place``.
    """
    check_place(folder)
    place = Path(folder).resolve()  # a link stays, and so does what "." names
    place.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    old = work.with_name(work.name + ".old")
    try:
        yield work
        work.chmod(0o755)
        if place.exists():
            check_place(place)  # writing takes minutes
            place.replace(old)
        work.replace(place)
        if old.exists():
            shutil.rmtree(old)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _is_ours(name: str) -> bool:
    """Whether a file's name is one that a model's writers give."""
    return any(fnmatchcase(name, pattern) for pattern in OURS)
