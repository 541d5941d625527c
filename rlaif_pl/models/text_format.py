"""How an exported model reads its texts: the template and the length limit it was trained with."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers.utils import cached_file

from rlaif_pl.models.adapters import adapter_source
from rlaif_pl.models.backbone import EMBEDDED
from rlaif_pl.text import TLDR, Template, parse_json

FILE = "rlaif_pl.json"  # beside the weights; transformers, peft and vLLM leave it alone


@dataclass(frozen=True, slots=True)
class TextFormat:
    """What a model was trained to read."""

    template: Template  # how prompts and responses are written
    max_response_tokens: int | None = None  # where a reward model cuts responses (EOS included)

    def save(self, folder: Path) -> None:
        """Write it beside a model's weights."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")


def stored_format(name: str, revision: str | None = None) -> TextFormat | None:
    """Return what is kept beside the weights of a folder, of adapters or their base, or hub model."""
    if name in (EMBEDDED, ""):
        return None
    path = Path(name) / FILE
    if path.is_file():
        return _read(path)
    if Path(name).exists():
        source = adapter_source(name)
        return None if source is None else stored_format(source.base, source.revision)
    if Path(name).is_absolute() or name.count("/") > 1:
        return None  # no name that the hub could know
    try:
        found = cached_file(name, FILE, revision=revision)
    except OSError:  # no such file, or no way to the hub, of which the weights will tell
        return None
    return None if found is None else _read(Path(found))


def format_of(
    name: str,
    revision: str | None = None,
    *,
    template: Template | None = None,
    max_response_tokens: int | None = None,
) -> TextFormat:
    """Return how a model is to read its texts: as given, as it was trained, or by the default.

    A warning says, once for each model, where what is given is not what it was trained with, and where
    the default template is taken. ``name`` is its folder or hub name; empty where it has none.
    """
    stored = stored_format(name, revision)
    if stored is None and template is None:
        warnings.warn(
            f"{name or 'a model in memory'} comes with no template and is given none, so prompts are "
            f"written as for TL;DR: {TLDR!r}; say template: chat for the tokenizer's chat template, "
            "{prompt: '{prompt}'} for prompts as they are, or a layout of your own",
            stacklevel=1,  # one place, so that it is said once
        )
    if stored is None:
        return TextFormat(template or Template(), max_response_tokens)
    given = {"template": template, "max_response_tokens": max_response_tokens}
    for key, value in given.items():
        own = getattr(stored, key)
        if None not in (value, own) and value != own:
            warnings.warn(
                f"{name} was trained with {key} {own} and is now given {value}, so that it reads texts "
                f"otherwise than in training; leave {key} out to take its own",
                stacklevel=1,  # one place, so that it is said once
            )
    limit = stored.max_response_tokens if max_response_tokens is None else max_response_tokens
    return TextFormat(template or stored.template, limit)


def _read(path: Path) -> TextFormat:
    """Read a file that ``TextFormat.save`` wrote; keys of a later version are left alone."""
    try:
        written = parse_json(path.read_text(encoding="utf-8"))
        template, limit = written["template"], written.get("max_response_tokens")
        known = {key: template[key] for key in Template.__dataclass_fields__ if key in template}
        if limit is not None and (type(limit) is not int or limit < 2):
            raise ValueError(f"max_response_tokens is {limit!r}")
        return TextFormat(Template(**known), limit)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"expected {path} to say how the model reads its texts, got something else ({error}); "
            "export the model again, or delete the file and give template"
        ) from error
