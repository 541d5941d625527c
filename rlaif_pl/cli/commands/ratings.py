"""``evaluate ratings``: what blind rankings say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from rich.console import Console

from rlaif_pl.cli.commands.rate import say
from rlaif_pl.data.preferences import write_preferences
from rlaif_pl.evaluation import pairs as verdict_files
from rlaif_pl.evaluation.human.findings import Reading, preferences_of, reading_of
from rlaif_pl.evaluation.human.records import BY_KIND
from rlaif_pl.evaluation.human.store import FILE, RatingStore
from rlaif_pl.evaluation.human.tables import results_of, write_ratings
from rlaif_pl.statistics import Estimator
from rlaif_pl.types import Preference


def ratings(
    ratings: str,
    out: str,
    verdicts: list[str] | None = None,
    names: bool = False,
    draws: int = 2000,
    seed: int = 0,
) -> int:
    """Win rates by people beside those of judges, their agreement, and preferences to train on.

    May be run at any time, also while people rate. Where language models read too, their figures stand
    apart under their own name.

    Args:
        ratings: Folder of `rate`, or its ratings.sqlite.
        out: Folder for results.md, rows.csv, tables.json, ratings.csv, win_rates.png, metrics.json and
            preferences.jsonl (votes on every two responses, of people and of models, for training).
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
        undone = {kind: store.count_undone(kind) for kind in BY_KIND}
    reading = reading_of(
        tasks,
        given,
        json.loads(facts.get("policies", "[]")),
        judges_of(verdicts, facts.get("samples")),
        show_names=names,
        undone=undone,
        estimator=Estimator(draws, seed),
    )
    results = results_of(reading)
    console = Console()
    results.page.render(console)
    results.write(out)
    write_ratings(out, tasks, given, reading.raters)
    write_votes(reading, Path(out) / "preferences.jsonl", seed, console)
    return 0


def write_votes(reading: Reading, path: Path, seed: int, console: Console) -> None:
    """Write the votes as preferences and say whose they are; kinds of raters are rows of their own."""
    pairs: list[Preference] = []
    said, left_out = [], Counter[str]()
    for found in reading.findings:
        votes, others = preferences_of(found.ranked, seed, found.readers)
        pairs += votes
        left_out += Counter(others)
        said.append(f"{len(votes)} by {found.readers.plural} (source: {found.readers.source})")
    write_preferences(path, pairs)
    told = "".join(f"; left out {count}: {reason}" for reason, count in left_out.items())
    say(console, f"{len(pairs)} preferences in {path}: {', '.join(said)}{told}")


def judges_of(
    files: list[str] | None, samples: str | None
) -> dict[str, verdict_files.JudgeVerdicts]:
    """Read verdicts; of judges with the same name in two files the later counts."""
    if files is None:
        beside = Path(samples).with_name(verdict_files.FILE) if samples else None
        files = [str(beside)] if beside is not None and beside.is_file() else []
    judges: dict[str, verdict_files.JudgeVerdicts] = {}
    for file in files:
        if not Path(file).is_file():
            raise FileNotFoundError(
                f"expected verdicts at {file}, there are none; evaluate policy and evaluate matrix "
                f"write {verdict_files.FILE}"
            )
        judges |= verdict_files.read_verdicts(file)
    return judges
