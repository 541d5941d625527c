"""``evaluate ratings``: what people's rankings say."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from rlaif_pl.data.preferences import write_preferences
from rlaif_pl.evaluation import verdicts as verdict_files
from rlaif_pl.evaluation.verdicts import JudgeVerdicts, read_verdicts
from rlaif_pl.rating.pairs import preferences_of
from rlaif_pl.rating.ranked import Estimator
from rlaif_pl.rating.report import findings_of, render, results_of, write_ratings
from rlaif_pl.rating.store import FILE, RatingStore


def ratings(
    ratings: str,
    out: str,
    verdicts: list[str] | None = None,
    names: bool = False,
    draws: int = 2000,
    seed: int = 0,
) -> int:
    """Win rates by people beside those of judges, their agreement, and preferences to train on.

    May be run at any time, also while people rate.

    Args:
        ratings: Folder of `rate`, or its ratings.sqlite.
        out: Folder for results.md, rows.csv, ratings.csv, win_rates.png, metrics.json and
            preferences.jsonl (people's votes on every two responses, for training).
        verdicts: verdicts.jsonl of evaluate policy or evaluate matrix, whose judges are compared with
            people; None reads the file beside the samples, where there is one.
        names: Call raters by their names; otherwise they are numbers in every file.
        draws: Bootstrap resamples.
        seed: Seeds the bootstrap.
    """
    path = Path(ratings)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"expected ratings at {path}, there are none; collect some: python -m rlaif_pl rate"
        )
    with RatingStore(path) as store:
        tasks, given, facts = store.tasks(), store.ratings(), store.facts()
        undone = store.count_undone()
    found = findings_of(
        tasks,
        given,
        json.loads(facts.get("policies", "[]")),
        judges_of(verdicts, facts.get("samples")),
        show_names=names,
        undone=undone,
        estimator=Estimator(draws=draws, seed=seed),
    )
    results = results_of(found)
    console = Console()
    render(found, results, console)
    results.write(out)
    write_ratings(out, tasks, given, found.raters)
    pairs, left_out = preferences_of(found.ranked, seed)
    write_preferences(Path(out) / "preferences.jsonl", pairs)
    console.print(
        f"{len(pairs)} preferences in {Path(out) / 'preferences.jsonl'}"
        + "".join(f"; left out {count}: {reason}" for reason, count in left_out.items()),
        highlight=False,
        soft_wrap=True,
    )
    return 0


def judges_of(files: list[str] | None, samples: str | None) -> dict[str, JudgeVerdicts]:
    """Read verdicts; of judges with the same name in two files the later counts."""
    if files is None:
        beside = Path(samples or "").with_name(verdict_files.FILE) if samples else None
        files = [str(beside)] if beside is not None and beside.is_file() else []
    judges: dict[str, JudgeVerdicts] = {}
    for file in files:
        if not Path(file).is_file():
            raise FileNotFoundError(
                f"expected verdicts at {file}, there are none; evaluate policy and evaluate matrix "
                f"write {verdict_files.FILE}"
            )
        judges |= read_verdicts(file)
    return judges
