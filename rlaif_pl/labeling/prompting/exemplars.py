"""Examples shown to a labeler before the sample: hand-written, versioned, in files of their own.

A file is a YAML list; each entry has ``prompt``, ``first``, ``second``, ``better`` (1 or 2) and,
for chain of thought, ``thoughts`` with what to say about the first and about the second response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlaif_pl.labeling.prompting.templates import parse_yaml, read_versioned

_REQUIRED = {"prompt", "first", "second", "better"}


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One example with its answer."""

    prompt: str  # what both responses reply to
    first: str  # response shown in the first slot
    second: str  # response shown in the second slot
    better: int  # slot (1 or 2) of the better response, whichever of them a prompt asks for
    # rationale on the first and on the second response, where there is one
    thoughts: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ExemplarFile:
    """Examples of one file, with its version."""

    version: str
    exemplars: tuple[Exemplar, ...]

    def without(self, prompt: str, count: int) -> tuple[Exemplar, ...]:
        """Return the first ``count`` examples that are not about a given prompt.

        An example about the sample's own prompt would give its answer away; the next one takes its
        place, and where there is none, one fewer is shown.
        """
        own = _normal(prompt)
        return tuple(each for each in self.exemplars if _normal(each.prompt) != own)[:count]


def load_exemplars(name: str, shots: int, thoughts: bool) -> ExemplarFile:
    """Load examples of the package by name, or one's own file by path.

    Raises:
        FileNotFoundError: There is neither.
        ValueError: The file has too few examples, lacks rationales, or is laid out otherwise.
    """
    content, version = read_versioned(name, ".yaml")
    rows = parse_yaml(content, version)
    if not isinstance(rows, list):
        raise ValueError(f"expected {version} to be a list of examples, got {type(rows).__name__}")
    exemplars = tuple(_exemplar(row, f"{version}, example {n}") for n, row in enumerate(rows, 1))
    if not 1 <= shots <= len(exemplars):
        raise ValueError(f"expected shots from 0 to {len(exemplars)} with {version}, got {shots}")
    silent = [n for n, each in enumerate(exemplars, 1) if each.thoughts is None]
    if thoughts and silent:
        raise ValueError(
            f"expected thoughts in every example of {version} for chain of thought, found none in "
            f"{silent}; add them or set cot to false"
        )
    return ExemplarFile(version, exemplars)


def _exemplar(row: object, where: str) -> Exemplar:
    if not isinstance(row, dict) or not _REQUIRED <= set(row) <= _REQUIRED | {"thoughts"}:
        got = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise ValueError(f"{where}: expected {sorted(_REQUIRED)} and perhaps thoughts, got {got}")
    texts = [row[name] for name in ("prompt", "first", "second")]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"{where}: expected prompt, first and second to be texts, got {texts}")
    if row["better"] not in (1, 2):
        raise ValueError(f"{where}: expected better to be 1 or 2, got {row['better']!r}")
    prompt, first, second = texts
    return Exemplar(prompt, first, second, row["better"], _thoughts(row.get("thoughts"), where))


def _thoughts(value: object, where: str) -> tuple[str, str] | None:
    if value is None:
        return None
    if not (
        isinstance(value, Sequence)
        and len(value) == 2
        and all(isinstance(each, str) and each.strip() for each in value)
    ):
        raise ValueError(f"{where}: expected thoughts to be two texts, got {value!r}")
    return (value[0].strip(), value[1].strip())


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()
