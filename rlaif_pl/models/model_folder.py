"""Write a model folder, whole and in its own place, and never in that of something else."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlaif_pl.models.tokenizer_files import FILES, read_settings, save_tokenizer, write_settings

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
    """Refuse (ValueError) a place for a model where a file stands, or a folder with others than its.

    Nothing, an empty folder and a model that was written earlier may be replaced.
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
    for name, is_folder in names.items():
        if not is_folder and not any(fnmatchcase(name, pattern) for pattern in OURS):
            odd.append(name)
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
    """Give a folder to write a model in, which takes its place (``check_place``) when all went well."""
    check_place(folder)
    place = Path(folder).resolve()  # a link stays, and so does what "." names
    place.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    work, old = holder / place.name, holder.with_name(holder.name + ".old")
    try:
        work.mkdir()  # who may read it is for the umask to say
        yield work
        if place.exists():
            check_place(place)  # writing takes minutes
            place.replace(old)
        work.replace(place)
        if old.exists():
            shutil.rmtree(old)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def save_causal(
    folder: str | Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    card: str | None = None,
    *,
    write_more: Callable[[Path], object] | None = None,
    revision: str | None = None,
    check: Callable[[Path], None] | None = None,
) -> Path:
    """Write a plain transformers folder (safetensors), whole or not at all; see ``check_place``.

    The model holds no adapters (see ``adapters.merged``); ``card`` is its README.md, ``revision`` the
    commit that the tokenizer was read from. ``write_more`` writes further files, and ``check`` raises
    where the written ones are not right.
    """
    with replaced_whole(folder) as work:
        model.save_pretrained(work)
        name_rope_for_all(work / "config.json")
        save_tokenizer(work, tokenizer, revision)
        if card is not None:
            (work / "README.md").write_text(card, encoding="utf-8")
        if write_more is not None:
            write_more(work)
        if check is not None:
            check(work)
    return Path(folder)


def name_rope_for_all(path: Path) -> None:
    """Repeat the base of the rotary positions under the name that transformers 4 reads.

    Of ``rope_parameters``, which 5 writes alone, that knows nothing, and takes its default base.
    """
    settings = read_settings(path)
    rope = settings.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        return
    settings.setdefault("rope_theta", rope["rope_theta"])
    rest = {key: value for key, value in rope.items() if key != "rope_theta"}
    if rest.get("rope_type", "default") != "default":
        settings.setdefault("rope_scaling", rest)
    write_settings(path, settings)
