"""Answers with their revisions: what each round of critique and revision wrote, and why."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rlaif_pl.data.files import read_rows, write_text
from rlaif_pl.data.records import decode_fields

HARMFUL = "harmful"
HELPFUL = "helpful"


@dataclass(frozen=True, slots=True)
class Revision:
    """One answer to one prompt, as first given (round 0) or after a round of revision.

    Attributes:
        group: Identity of the prompt.
        prompt: The prompt, as its source gave it.
        kind: ``harmful`` for prompts whose answers are revised, ``helpful`` for those answered once.
        round: 0 for the first answer, else the number of the round.
        response: The answer or revision; empty where there is a ``failure``.
        principle: Name of the principle that was drawn; None in round 0.
        critique: What the round's critique said; None in round 0 and where critiques are skipped.
        failure: Why the round gave no revision (``critique_empty``, ``revision_malformed``,
            ``critique_too_long``, ...); None if it did. The next round goes on from the last
            response there is.
        finished: False where the length limit cut the response.
        unchanged: The revision is the text that it was to revise, word for word.
        revises: Round whose response was revised; None in round 0.
        backend: Fingerprint of the model that wrote it.
        prompt_version: Versions of layout, principles and examples with every setting.
        read: Tokens read for the round (critique and revision).
        written: Tokens written for it.
        cost_usd: Money paid for it.
    """

    group: str
    prompt: str
    kind: str
    round: int
    response: str
    principle: str | None = None
    critique: str | None = None
    failure: str | None = None
    finished: bool = True
    unchanged: bool = False
    revises: int | None = None
    backend: str = ""
    prompt_version: str = ""
    read: int = 0
    written: int = 0
    cost_usd: float = 0.0


def write_revisions(path: str | Path, rows: Iterable[Revision]) -> None:
    """Write one JSON object a line, so that a kill leaves the old file or the new one."""
    lines = (json.dumps(asdict(row), ensure_ascii=False, allow_nan=False) for row in rows)
    write_text(Path(path), lines)


def read_revisions(path: str | Path) -> list[Revision]:
    """Read what ``write_revisions`` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A field is missing or of another type, or a revised prompt has a round twice.
    """
    rows: list[Revision] = [
        decode_fields(Revision, row.fields, row.where) for row in read_rows(Path(path))
    ]
    seen: set[tuple[str, str, int]] = set()
    for row in rows:
        if row.kind != HARMFUL:
            continue
        key = (row.group, row.prompt, row.round)
        if key in seen:
            raise ValueError(
                f"expected each round of a prompt once in {path}, got round {row.round} of "
                f"{row.group} twice; name the file of one revise job"
            )
        seen.add(key)
    return rows


def chains(rows: Sequence[Revision]) -> dict[tuple[str, str], dict[int, Revision]]:
    """Return what revised prompts have: responses by prompt (group, text) and round, in file order."""
    found: dict[tuple[str, str], dict[int, Revision]] = {}
    for row in rows:
        if row.kind == HARMFUL and row.failure is None:
            found.setdefault((row.group, row.prompt), {})[row.round] = row
    return found
