"""Write a model folder, whole and in its own place, and never in that of something else.

transformers 5 writes classes and fields (``TokenizersBackend``, lists of ``extra_special_tokens``) that
older versions, and programs built on them, cannot load. What it read is still right, so that is kept.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

if TYPE_CHECKING:
    from rlaif_pl.models.text_format import TextFormat

CONFIG = "tokenizer_config.json"
WHOLE = "tokenizer.json"
FILES = (
    *(CONFIG, WHOLE, "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json"),
)
OF_THIS_MACHINE = ("is_local", "local_files_only", "name_or_path")
Settings = dict[str, Any]
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


def save_causal(
    folder: str | Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    card: str | None = None,
    *,
    text_format: TextFormat | None = None,
    revision: str | None = None,
    check: Callable[[Path], None] | None = None,
) -> Path:
    """Write a plain transformers folder (safetensors), whole or not at all; see ``check_place``.

    The model holds no adapters (see ``adapters.merged``); ``card`` is its README.md, ``revision`` the
    commit that the tokenizer was read from. ``check`` raises where the written files are not right.
    """
    with replaced_whole(folder) as work:
        model.save_pretrained(work)
        name_rope_for_all(work / "config.json")
        save_tokenizer(work, tokenizer, revision)
        if card is not None:
            (work / "README.md").write_text(card, encoding="utf-8")
        if text_format is not None:
            text_format.save(work)
        if check is not None:
            check(work)
    return Path(folder)


def save_tokenizer(
    folder: Path, tokenizer: PreTrainedTokenizerBase, revision: str | None = None
) -> None:
    """Write a tokenizer's files."""
    files = source_files(tokenizer, revision)
    settings = _read(files[CONFIG]) if CONFIG in files else {}
    # made in memory, without settings (vocab.json and merges.txt alone), or with code of its own
    is_own = CONFIG not in files or len(files) < 2 or "auto_map" in settings
    before = tokenizer if is_own else AutoTokenizer.from_pretrained(files[CONFIG].parent)
    if (
        is_own
        or tokenizer.chat_template != before.chat_template
        or tokenizer("a").input_ids != before("a").input_ids  # it puts something else around a text
    ):
        tokenizer.save_pretrained(folder)
        _write(folder / CONFIG, portable(_read(folder / CONFIG)))
        return
    for name, path in files.items():
        shutil.copyfile(path, folder / name)
    _write(folder / CONFIG, portable(settings))
    if tokenizer.get_added_vocab() != before.get_added_vocab():
        _take_vocabulary(folder, tokenizer, before)
    old, new = before.special_tokens_map, tokenizer.special_tokens_map
    named = {key: str(value) for key, value in new.items() if old.get(key) != value}  # since then
    for name in (CONFIG, "special_tokens_map.json"):
        if named and (folder / name).is_file():
            _write(folder / name, _read(folder / name) | named)


def source_files(
    tokenizer: PreTrainedTokenizerBase, revision: str | None = None
) -> dict[str, Path]:
    """Return the files a tokenizer was read from, as far as they are still there."""
    source = str(tokenizer.name_or_path or "")
    names = dict.fromkeys((*FILES, *tokenizer.vocab_files_names.values()))
    if Path(source).is_dir():
        return {name: path for name in names if (path := Path(source) / name).is_file()}
    if not source:
        return {}
    kinds = ("gated_repo", "missing_entries", "connection_errors")
    quietly = {f"_raise_exceptions_for_{kind}": False for kind in kinds}
    found = {}
    for name in names:  # loading has fetched what there is
        cached = cached_file(source, name, revision=revision, local_files_only=True, **quietly)
        if cached is not None:
            found[name] = Path(cached)
    return found


def portable(settings: Settings) -> Settings:
    """Return a tokenizer_config.json in words that transformers 4 and 5 both read alike."""
    result = {key: value for key, value in settings.items() if key not in OF_THIS_MACHINE}
    if result.get("tokenizer_class") == "TokenizersBackend":
        result["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(result.get("extra_special_tokens"), list):
        result["additional_special_tokens"] = result.pop("extra_special_tokens")
    named = result.pop("model_specific_special_tokens", None)
    if named:
        result.setdefault("extra_special_tokens", named)
    return result


def name_rope_for_all(path: Path) -> None:
    """Repeat the base of the rotary positions under the name that transformers 4 reads.

    Of ``rope_parameters``, which 5 writes alone, that knows nothing, and takes its default base.
    """
    settings = _read(path)
    rope = settings.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        return
    settings.setdefault("rope_theta", rope["rope_theta"])
    rest = {key: value for key, value in rope.items() if key != "rope_theta"}
    if rest.get("rope_type", "default") != "default":
        settings.setdefault("rope_scaling", rest)
    _write(path, settings)


def _take_vocabulary(
    folder: Path, tokenizer: PreTrainedTokenizerBase, before: PreTrainedTokenizerBase
) -> None:
    """Write the tokens that were added since the tokenizer was read."""
    with tempfile.TemporaryDirectory(dir=folder) as written:
        tokenizer.save_pretrained(written)
        if (Path(written) / WHOLE).is_file():
            (Path(written) / WHOLE).replace(folder / WHOLE)
    known = before.get_added_vocab()
    fresh = {token: n for token, n in tokenizer.get_added_vocab().items() if token not in known}
    settings = _read(folder / CONFIG)
    if "added_tokens_decoder" in settings:
        flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
        settings["added_tokens_decoder"] |= {
            str(number): {"content": token, **flags, "special": True}
            for token, number in fresh.items()
        }
        _write(folder / CONFIG, settings)
    if (folder / "added_tokens.json").is_file():
        _write(folder / "added_tokens.json", _read(folder / "added_tokens.json") | fresh)


def _read(path: Path) -> Settings:
    content: Settings = json.loads(path.read_text(encoding="utf-8"))
    return content


def _write(path: Path, content: Settings) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
