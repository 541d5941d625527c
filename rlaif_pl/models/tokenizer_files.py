"""Write a tokenizer's files so that older programs read them, too.

transformers 5 writes classes and fields (``TokenizersBackend``, lists of ``extra_special_tokens``) that
older versions, and programs built on them, cannot load. What it read is still right, so that is kept.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file

CONFIG = "tokenizer_config.json"
WHOLE = "tokenizer.json"
FILES = (
    *(CONFIG, WHOLE, "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json"),
)
OF_THIS_MACHINE = ("is_local", "local_files_only", "name_or_path")
Settings = dict[str, Any]


def save_tokenizer(
    folder: Path, tokenizer: PreTrainedTokenizerBase, revision: str | None = None
) -> None:
    """Write a tokenizer's files."""
    files = source_files(tokenizer, revision)
    settings = read_settings(files[CONFIG]) if CONFIG in files else {}
    # made in memory, without settings (vocab.json and merges.txt alone), or with code of its own
    is_own = CONFIG not in files or len(files) < 2 or "auto_map" in settings
    before = tokenizer if is_own else AutoTokenizer.from_pretrained(files[CONFIG].parent)
    if (
        is_own
        or tokenizer.chat_template != before.chat_template
        or tokenizer("a").input_ids != before("a").input_ids  # it puts something else around a text
    ):
        tokenizer.save_pretrained(folder)
        write_settings(folder / CONFIG, portable(read_settings(folder / CONFIG)))
        return
    for name, path in files.items():
        shutil.copyfile(path, folder / name)
    write_settings(folder / CONFIG, portable(settings))
    if tokenizer.get_added_vocab() != before.get_added_vocab():
        _take_vocabulary(folder, tokenizer, before)
    old, new = before.special_tokens_map, tokenizer.special_tokens_map
    named = {key: str(value) for key, value in new.items() if old.get(key) != value}  # since then
    for name in (CONFIG, "special_tokens_map.json"):
        if named and (folder / name).is_file():
            write_settings(folder / name, read_settings(folder / name) | named)


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
    settings = read_settings(folder / CONFIG)
    if "added_tokens_decoder" in settings:
        flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
        settings["added_tokens_decoder"] |= {
            str(number): {"content": token, **flags, "special": True}
            for token, number in fresh.items()
        }
        write_settings(folder / CONFIG, settings)
    if (folder / "added_tokens.json").is_file():
        write_settings(
            folder / "added_tokens.json", read_settings(folder / "added_tokens.json") | fresh
        )


def read_settings(path: Path) -> Settings:
    """Return what a JSON file of settings holds."""
    content: Settings = json.loads(path.read_text(encoding="utf-8"))
    return content


def write_settings(path: Path, content: Settings) -> None:
    """Write settings as transformers does, indented and in UTF-8."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
