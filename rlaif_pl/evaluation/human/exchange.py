"""Blind tasks and readings as JSONL, for readers without a server.

A task is a row with ``task``, ``prompt``, ``texts``, ``rater``, ``kind``, ``ranks``, ``acceptable`` and
``reason``. A reader fills in the last four and gives the file back. Ranks and acceptable go by place in
``texts``, and texts are told by what they say: their order in the file is the order that was read.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from rlaif_pl.data.files import read_rows
from rlaif_pl.data.metric_files import write_json_lines
from rlaif_pl.evaluation.human.records import LONGEST_NAME, FiledAnswer, Rating
from rlaif_pl.evaluation.human.store import RatingStore
from rlaif_pl.evaluation.human.tasks import Tasks, texts_for
from rlaif_pl.text import shown, strip_surplus_symbols


class Imported(NamedTuple):
    """What came of a file of readings."""

    new: int  # ratings added
    known: int  # those that were here before
    unfilled: int  # rows without ranks and without a reason


def export_tasks(store: RatingStore, rater: str, path: Path | str) -> int:
    """Write tasks a rater has not rated, as drawn; return how many. ``ValueError``: no name."""
    name = rater.strip()
    if not 1 <= len(name) <= LONGEST_NAME:
        raise ValueError(
            f"expected --rater to be a name of 1 to {LONGEST_NAME} characters, got {shown(rater)}"
        )
    seed = int(store.facts()["seed"])
    rated = {each.task for each in store.ratings() if each.name == name.casefold()}
    empty = dict.fromkeys(("kind", "ranks", "acceptable", "reason"))
    rows = [
        {"task": task.id, "prompt": task.prompt, "texts": texts_for(seed, name, task)}
        | {"rater": name, **empty}
        for task in store.tasks().values()
        if task.id not in rated
    ]
    write_json_lines(Path(path), rows)
    return len(rows)


def import_ratings(store: RatingStore, path: Path | str, ties: bool = False) -> Imported:
    """Put readings that were made elsewhere into a file of ratings, all or none.

    A row is a ``FiledAnswer`` with ``task`` or ``prompt``, and ``ranks``; or ``reason`` alone, where
    the rater could not judge. Rows with neither are passed over: a half-filled file may come twice.
    ``ValueError``: a row cannot be taken; the message names its line, and nothing was taken.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(
            f"expected readings at {source}, there are none; rate --export_tasks FILE --rater NAME "
            "writes what to fill in"
        )
    tasks = store.tasks()
    read, unfilled = [], 0
    for where, fields in read_rows(source):
        if fields.get("ranks") is None and not fields.get("reason"):
            unfilled += 1
        else:
            try:
                read.append((where, _rating(fields, tasks, ties)))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
    new = store.put_all(read)
    return Imported(new, len(read) - new, unfilled)


def _rating(fields: Mapping[str, object], tasks: Tasks, ties: bool) -> Rating:
    try:
        said = FiledAnswer.model_validate({n: v for n, v in fields.items() if v is not None})
    except ValidationError as error:
        wrong = error.errors()[0]
        name = str(wrong["loc"][0])
        raise ValueError(
            f"expected {name!r} as docs/rating.md has it, got {shown(fields.get(name))} "
            f"({wrong['msg']})"
        ) from error
    texts = [strip_surplus_symbols(text) for text in said.texts]
    found = [
        task
        for task in tasks.values()
        if (task.prompt == said.prompt if said.task is None else task.id == said.task)
        and sorted(item.text for item in task.items) == sorted(texts)
    ]
    if len(found) != 1:
        raise ValueError(
            f"expected 'task' or 'prompt', and 'texts', of one task of this file, got those of "
            f"{len(found)} (task {shown(said.task)}, {len(texts)} texts); give the rows that "
            "--export_tasks writes, with their texts as they are"
        )
    places = {item.text: place for place, item in enumerate(found[0].items)}
    return said.rating(secrets.token_hex(16), found[0].id, [places[text] for text in texts], ties)
