"""Answers with their revisions: what each round of critique and revision wrote, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rlaif_pl.data.files import read_rows
from rlaif_pl.data.metric_files import write_json_lines
from rlaif_pl.data.records import decode_fields

HARMFUL = "harmful"
HELPFUL = "helpful"


@dataclass(frozen=True, slots=True)
class Revision:
    """One answer to one prompt, as first given (round 0) or after a round of revision."""

    group: str  # identity of the prompt
    prompt: str  # the prompt, as its source gave it
    kind: str  # `harmful` for prompts whose answers are revised, `helpful` for those answered once
    round: int  # 0 for the first answer, else the number of the round
    response: str  # the answer or revision; empty where there is a `failure`
    principle: str | None = None  # name of the principle that was drawn; None in round 0
    critique: str | None = None  # None in round 0 and where critiques are skipped
    # why the round gave no revision (`critique_empty`, ...); the next goes on from the last response
    failure: str | None = None
    finished: bool = True  # false where the length limit cut the response
    unchanged: bool = False  # the revision is the text that it was to revise, word for word
    revises: int | None = None  # round whose response was revised; None in round 0
    backend: str = ""  # fingerprint of the model that wrote it
    prompt_version: str = ""  # versions of layout, principles and examples with every setting
    read: int = 0  # tokens read for the round (critique and revision)
    written: int = 0  # tokens written for it
    cost_usd: float = 0.0  # money paid for it


def write_revisions(path: str | Path, rows: Iterable[Revision]) -> None:
    """Write one JSON object a line, so that a kill leaves the old file or the new one."""
    write_json_lines(path, map(asdict, rows))


def read_revisions(path: str | Path) -> list[Revision]:
    """Read what ``write_revisions`` wrote; ValueError where a revised prompt has a round twice."""
    found = read_rows(Path(path))
    rows: list[Revision] = [decode_fields(Revision, row.fields, row.where) for row in found]
    seen: set[tuple[str, str, int]] = set()
    for row in rows:
        key = (row.group, row.prompt, row.round)
        if row.kind == HARMFUL and key in seen:
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
