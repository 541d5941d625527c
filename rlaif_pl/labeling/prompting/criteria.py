"""Criteria of rubrics: what a good response does, with weights, for a task or for single prompts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlaif_pl.data.files import read_rows
from rlaif_pl.labeling.prompting.templates import parse_yaml, read_versioned
from rlaif_pl.text import shown


@dataclass(frozen=True, slots=True)
class Criterion:
    """One thing that a good response does."""

    description: str  # a sentence that a response makes true or not
    weight: float = 1.0  # its share in the score, above 0, relative to those of the other criteria


@dataclass(frozen=True, slots=True)
class PromptRubric:
    """What is known about one prompt besides its text."""

    criteria: tuple[Criterion, ...] = ()  # its own criteria; empty where those of the task hold
    reference: str | None = None  # a good response to compare with; None where there is none


def load_criteria(name: str) -> tuple[tuple[Criterion, ...], str]:
    """Load criteria of the package by name, or one's own YAML or JSON file by path, with their version.

    Raises:
        FileNotFoundError: There is neither.
        ValueError: The file is not a list of ``{description, weight}``.
    """
    content, version = read_versioned(name, ".yaml")
    return criteria_of(parse_yaml(content, version), version), version


def criteria_of(rows: object, where: str) -> tuple[Criterion, ...]:
    """Check a list of criteria.

    Args:
        rows: Each ``{description, weight}``, or a description alone.
        where: File or row that they came from, for messages.

    Raises:
        ValueError: One of them is something else, two are alike, or there is none.
    """
    if not isinstance(rows, list) or not rows:
        raise ValueError(
            f"expected {where} to hold a list of criteria {{description, weight}}, got {shown(rows)}"
        )
    found = tuple(_criterion(row, where) for row in rows)
    if len({each.description for each in found}) < len(found):
        raise ValueError(f"expected different criteria in {where}, got one twice; leave it out")
    return found


def _criterion(row: object, where: str) -> Criterion:
    """Check one criterion."""
    fields = row if isinstance(row, dict) else {"description": row}
    text, weight = fields.get("description"), fields.get("weight", 1.0)
    if not isinstance(text, str) or not text.strip() or set(fields) - {"description", "weight"}:
        raise ValueError(
            f"expected each criterion in {where} to be {{description: TEXT, weight: NUMBER}}, got "
            f"{shown(row)}"
        )
    value = math.nan
    if isinstance(weight, int | float) and not isinstance(weight, bool):
        value = float(weight)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(
            f"expected weights above 0 in {where}, got {weight!r} for {text[:40]!r}; word a fault so "
            "that Yes is good (it does not ...)"
        )
    return Criterion(text.strip(), value)


def load_rows(path: str) -> tuple[Mapping[str, PromptRubric], str]:
    """Load criteria and references of single prompts.

    Args:
        path: JSON Lines (or another data file) with ``prompt`` and, each where there is one,
            ``criteria`` (a list as in a file of criteria) and ``reference``; other fields are let be.

    Returns:
        By prompt, and a version made of the content.

    Raises:
        ValueError: A field is of another kind, or a prompt stands there twice.
    """
    known: dict[str, PromptRubric] = {}
    digest = hashlib.sha256()
    for row in read_rows(Path(path).expanduser()):
        prompt = row.fields.get("prompt", row.fields.get("text"))
        reference = row.fields.get("reference")
        if not isinstance(prompt, str) or not isinstance(reference, str | None):
            raise ValueError(
                f"expected prompt (and reference, if any) to be text in {row.where}, got "
                f"{shown(prompt)} and {shown(reference)}"
            )
        own = row.fields.get("criteria")
        criteria = () if own is None else criteria_of(own, row.where)
        if prompt in known:
            raise ValueError(f"expected each prompt once in {path}, got that of {row.where} again")
        known[prompt] = PromptRubric(criteria, reference or None)
        digest.update(repr((prompt, known[prompt])).encode())
    return known, f"{Path(path).stem}-{digest.hexdigest()[:12]}"
