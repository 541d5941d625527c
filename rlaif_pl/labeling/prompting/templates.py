"""Labeling prompts: text files with a version in their name; ``prompts/README.md`` has their layout."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple, TypeGuard

import yaml

from rlaif_pl.data.files import read_text
from rlaif_pl.labeling.calls import Question
from rlaif_pl.text import filled, mark_data, whole_characters

PAIR = frozenset({"prompt", "first", "second"})
PRINCIPLED = PAIR | {"principle"}
SINGLE = frozenset({"prompt", "response"})
SEVERAL = frozenset({"prompt", "responses"})
# Parts, each with the fields that it must have; of the sample see `_check_fields`.
PARTS: dict[str, list[str]] = {
    **dict.fromkeys(("preamble", "reasoning preamble", "example", "after examples"), []),
    **dict.fromkeys(("sample", "reasoning", "ending"), []),
    "thoughts": ["first", "second"],
    "reference": ["reference"],
    "criterion": ["criterion"],
}
BLANK = "\n\n"
_FIELD = re.compile(r"\{(prompt|first|second|responses?|principle|reference|criterion)\}")
_PART = re.compile(r"^---(?: (.*?))?[ \t]*$", re.MULTILINE)
_OPENING_LINE = re.compile(r"(\s*)([^\n]*)\Z")


class Opened(NamedTuple):
    """A request whose last line opens the answer."""

    body: str  # everything before the white space in front of the last line; may be empty
    gap: str  # that white space
    # the last line, without white space at its end: it would change the next token
    assistant_prefix: str

    def question(self, chat: bool) -> Question:
        """Return the question; in a chat the last line begins the answer, without a gap."""
        asked = filled(self.body if chat else self.body + self.gap)
        return Question(asked, filled(self.assistant_prefix), chat)


@dataclass(frozen=True, slots=True)
class LabelingPrompt:
    """One way to ask about responses."""

    version: str  # name with version; one's own files carry a hash of their content
    asks_worse: bool  # the verdict names the worse response, as the harmlessness prompt does
    options: tuple[str, ...]  # what may follow the ending
    parts: dict[str, str]  # text of each by its name, without white space around it
    gap: str = BLANK  # white space between the sample and the ending

    @property
    def fields(self) -> frozenset[str]:
        """Names of the sample's fields."""
        return frozenset(_FIELD.findall(self.parts["sample"]))

    @property
    def ending(self) -> str:
        """Last line, after which the verdict follows."""
        return self.parts["ending"]

    def part(self, name: str, why: str) -> str:
        """Return a part that a setting needs. ``ValueError``: the file has no such part."""
        if name not in self.parts:
            raise ValueError(
                f"expected prompt {self.version} to have a part '--- {name}' for {why}, found "
                f"{sorted(self.parts)}; add it or leave {why} out"
            )
        return self.parts[name]

    def question(self, chat: bool, *shown: str) -> Question:
        """Ask about filled parts, shown behind the preamble."""
        texts = [text for text in (self.parts.get("preamble"), *shown) if text]
        return Opened(BLANK.join(texts), self.gap, self.ending).question(chat)

    def filled(self, part: str, **values: str) -> str:
        """Return a part with its fields filled in, marked as data (see ``rlaif_pl.text.filled``)."""
        return _FIELD.sub(lambda match: mark_data(values[match[1]].strip()), self.parts[part])


def is_texts(value: object) -> TypeGuard[list[str]]:
    """Tell whether a value is a list of texts, none of them blank."""
    return isinstance(value, list) and all(isinstance(x, str) and x.strip() for x in value)


def opened(text: str) -> Opened:
    """Cut off the last line, which opens the answer."""
    text = text.rstrip()
    match = _OPENING_LINE.search(text)
    gap, line = match.groups() if match else ("", text)
    return Opened(text[: len(text) - len(gap) - len(line)], gap, line)


def load_prompt(name: str, fields: frozenset[str] = PAIR) -> LabelingPrompt:
    """Load a prompt by name or path. ``ValueError``: laid out otherwise, or it asks something else."""
    content, version = read_versioned(name, ".txt")
    prompt = parse_prompt(content, version)
    if prompt.fields != fields:
        raise ValueError(
            f"expected a prompt whose sample has the fields {sorted(fields)}, got "
            f"{sorted(prompt.fields)} in {version}; name another prompt or labeler"
        )
    return prompt


def read_versioned(name: str, suffix: str) -> tuple[str, str]:
    """Read a file of the package's prompts folder by name, or one's own by path (FileNotFoundError).

    Returns its text and its version: the name, or for one's own its stem and a hash of its content.
    """
    folder = files("rlaif_pl.labeling") / "prompts"
    known = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(suffix))
    if name + suffix in known:
        return (folder / (name + suffix)).read_text(encoding="utf-8"), name
    path = Path(name).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"expected one of {[each.removesuffix(suffix) for each in known]} or the path of a "
            f"{suffix} file, got {name!r}"
        )
    content = read_text(path)
    return content, f"{path.stem}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def parse_yaml(content: str, version: str) -> object:
    """Parse a file that ``read_versioned`` read. ``ValueError``: it is not YAML."""
    try:
        return whole_characters(yaml.safe_load(content))
    except yaml.YAMLError as error:
        raise ValueError(
            f"expected {version} to be YAML, got: {' '.join(str(error).split())}; fix it (a text with "
            "': ' in it needs quotes)"
        ) from error


def parse_prompt(content: str, version: str) -> LabelingPrompt:
    """Check a prompt file's content and drop white space that would change the verdict's token."""
    first = _PART.search(content)
    head = content[: first.start()] if first else content
    try:
        header = yaml.safe_load(head)
    except yaml.YAMLError:
        header = None
    asks = header.get("asks") if isinstance(header, dict) else None
    begin = "to begin with 'asks: better' or 'asks: worse' and a line '---'"
    _need(asks in ("better", "worse"), version, begin, repr(head[:40]))
    unknown = sorted(set(header) - {"asks", "options"})
    _need(not unknown, version, "to begin with asks and options", unknown)
    options = header.get("options", ["1", "2"])
    different = is_texts(options) and len({each.strip() for each in options}) == len(options) >= 2
    _need(different, version, "to have options that are different texts in quotes", options)
    _need(first, version, "to have a line '---' or '--- name' after its header", "none")
    if first and first[1]:
        gap, parts = BLANK, _parts(content, version)
    else:
        body, gap, ending = opened(content[first.end() if first else 0 :])
        _need(not _FIELD.search(ending), version, "to end in a line without fields", repr(ending))
        parts = {"sample": body.strip("\n"), "ending": ending}
    _check_fields(parts, version)
    return LabelingPrompt(version, asks == "worse", tuple(options), parts, gap)


def _need(holds: object, version: str, expected: str, got: object) -> None:
    if not holds:
        raise ValueError(f"expected prompt {version} {expected}, got {got}")


def _parts(content: str, version: str) -> dict[str, str]:
    _, *pieces = _PART.split(content)
    names, bodies = pieces[::2], pieces[1::2]
    unknown = sorted(set(names) - PARTS.keys())
    _need(not unknown, version, f"to have parts among {list(PARTS)}", unknown)
    _need(len(set(names)) == len(names), version, "to have each part once", names)
    return {name: body.strip() for name, body in zip(names, bodies, strict=True)}


def _check_fields(parts: dict[str, str], version: str) -> None:
    """Refuse a prompt that would drop a text or say it where it must not."""
    missing = [name for name in ("sample", "ending") if not parts.get(name)]
    _need(not missing, version, f"to have the parts {missing}", sorted(filter(parts.get, parts)))
    fields = {name: _FIELD.findall(text) for name, text in parts.items()}
    sample = sorted(fields.pop("sample"))
    texts = "{prompt}, {first} and {second} once, or {prompt} and {response} once"
    is_known = sample in [sorted(each) for each in (PAIR, PRINCIPLED, SINGLE, SEVERAL)]
    _need(is_known, version, f"to have a sample that holds each of {texts}", sample)
    for name, found in fields.items():
        expected = f"to have a part '{name}' with the fields {PARTS[name]}"
        _need(found == PARTS[name], version, expected, found)
    _need("\n" not in parts["ending"], version, "to have an ending of one line", "more")
