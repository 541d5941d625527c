"""Labeling prompts: text files with a version in their name and a line that says what they ask for.

Layout of arXiv 2309.00267, section 2.1 (preamble, sample, an ending after which the next token is
the verdict); the wording is this project's own. A file is

    asks: better            (or "worse": the verdict names the worse response and is turned around)
    ---
    text with {prompt}, {first} and {second}, whose last line is the ending
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

FIELDS = ("prompt", "first", "second")
_FIELD = re.compile(r"\{(prompt|first|second)\}")


@dataclass(frozen=True, slots=True)
class LabelingPrompt:
    """One way to ask which of two responses is better.

    Attributes:
        version: Name with version; one's own files carry a hash of their content.
        text: Everything up to the verdict, with ``{prompt}``, ``{first}`` and ``{second}``.
        asks_worse: The verdict names the worse response, as the harmlessness prompt does.
    """

    version: str
    text: str
    asks_worse: bool

    def render(self, prompt: str, first: str, second: str) -> str:
        """Fill in the fields; braces inside the texts are left alone."""
        values = {"prompt": prompt.strip(), "first": first.strip(), "second": second.strip()}
        return _FIELD.sub(lambda match: values[match[1]], self.text)

    @property
    def ending(self) -> str:
        """Last line, after which the verdict follows."""
        return self.text.rsplit("\n", 1)[-1]


def prompt_names() -> list[str]:
    """Names of the prompts that come with the package."""
    folder = files("rlaif_pl.labeling") / "prompts"
    return sorted(
        entry.name.removesuffix(".txt") for entry in folder.iterdir() if entry.name.endswith(".txt")
    )


def load_prompt(name: str) -> LabelingPrompt:
    """Load a prompt of the package by its name, or one's own file by its path.

    Raises:
        FileNotFoundError: There is neither such a prompt nor such a file.
        ValueError: The file is not laid out as described in this module.
    """
    if name in prompt_names():
        resource = files("rlaif_pl.labeling") / "prompts" / f"{name}.txt"
        return parse_prompt(resource.read_text(encoding="utf-8"), name)
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"expected one of {prompt_names()} or the path of a prompt file, got {name!r}"
        )
    content = path.read_text(encoding="utf-8")
    return parse_prompt(content, f"{path.stem}-{hashlib.sha256(content.encode()).hexdigest()[:12]}")


def parse_prompt(content: str, version: str) -> LabelingPrompt:
    """Check a prompt file's content.

    The text's trailing white space is dropped: the verdict is tokenized together with the text, and
    a space there would change the verdict's token.
    """
    header, bar, text = content.partition("\n---\n")
    asks = {"asks: better": False, "asks: worse": True}.get(header.strip())
    if not bar or asks is None:
        raise ValueError(
            f"expected prompt {version} to begin with 'asks: better' or 'asks: worse' and a line "
            f"'---', got {content[:40]!r}"
        )
    found = sorted(_FIELD.findall(text))
    if found != sorted(FIELDS):
        raise ValueError(
            f"expected prompt {version} to hold each of {{prompt}}, {{first}} and {{second}} once, "
            f"got {found}"
        )
    text = text.rstrip()
    if _FIELD.search(text.rsplit("\n", 1)[-1]):
        raise ValueError(f"expected prompt {version} to end in a line without fields, got one")
    return LabelingPrompt(version, text, asks)
