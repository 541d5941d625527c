"""The pairs a reward study is made on: real comparisons, short enough, with subsets of the votes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rlaif_pl.data.disk import file_named
from rlaif_pl.data.preferences import write_preferences
from rlaif_pl.data.sources import DataSource, load_preferences
from rlaif_pl.types import Preference

DATA = "RLAIF_PL_DATA"  # environment variable: the folder that stands for data/


def located(source: DataSource | str) -> DataSource:
    """Return a source whose ``data/...`` is looked for in the folder ``RLAIF_PL_DATA`` names.

    A file that is there under its own name is taken as it is.
    """
    source = DataSource(source) if isinstance(source, str) else source
    path = Path(source.name)
    if path.parts[:1] != ("data",) or path.exists():
        return source
    place = os.environ.get(DATA)
    other = Path(place, *path.parts[1:]) if place else None
    if other is None or not other.exists():
        raise FileNotFoundError(
            f"expected real comparisons at {path}"
            + (f" or {other}" if other else "")
            + ", found no "
            f"file; get them as docs/studies.md says, or set {DATA} to the folder that holds them"
        )
    return replace(source, name=str(other))


def study_pairs(source: DataSource, max_words: int | None, limit: int | None) -> list[Preference]:
    """Return judged pairs of prompts that are short enough, the first so many, at least one."""
    rows = [row for row in load_preferences(source).rows if row.p_first is not None]
    short = [r for r in rows if max_words is None or len(r.prompt.split()) <= max_words][:limit]
    if not short:
        raise ValueError(
            f"expected judged pairs of at most {max_words} words in {source.name}, got none of "
            f"{len(rows)}; raise max_words"
        )
    return short


def write_study(
    source: DataSource,
    folder: Path,
    strata: Mapping[str, Sequence[int]],
    max_words: int | None,
    limit: int | None,
) -> dict[str, float]:
    """Write ``pairs.jsonl`` and, by subset of the votes, ``<name>.jsonl``; return their counts."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = study_pairs(source, max_words, limit)
    write_preferences(folder / "pairs.jsonl", rows)
    known = {(row.prompt, frozenset((row.first, row.second))) for row in rows}
    counts = {"pairs": len(rows), "posts": len({row.group for row in rows})}
    for name, confidence in strata.items():
        part = load_preferences(replace(source, confidence=list(confidence), limit=None)).rows
        kept = [r for r in part if (r.prompt, frozenset((r.first, r.second))) in known]
        write_preferences(file_named(folder, name, ".jsonl"), kept)
        counts[name] = len(kept)
    return {f"study/{name}": float(count) for name, count in counts.items()}
