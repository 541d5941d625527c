"""Blind tasks and readings as JSONL, for readers without a server.

A task is a row with ``task``, ``prompt``, ``texts``, ``rater``, ``kind``, ``ranks``, ``acceptable`` and
``reason``. A reader fills in the last four and gives the file back. Ranks and acceptable go by place in
``texts``, and texts are told by what they say: their order in the file is the order that was read.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rlaif_pl.data.files import read_rows
from rlaif_pl.data.metric_files import write_json_lines
from rlaif_pl.evaluation.human.records import (
    BY_KIND,
    LONGEST_NAME,
    LONGEST_REASON,
    MOST_SECONDS,
    Kind,
    Rating,
    judged,
)
from rlaif_pl.evaluation.human.store import RatingStore
from rlaif_pl.evaluation.human.tasks import RatingTask, texts_for
from rlaif_pl.text import shown, strip_surplus_symbols

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of a file of readings."""

    new: int  # ratings added
    known: int  # those that were here before
    unfilled: int  # rows without ranks and without a reason


def export_tasks(store: RatingStore, rater: str, path: Path | str) -> int:
    """Write tasks a rater has not rated, as drawn; return how many. ``ValueError``: no name."""
    name = _name(rater, "--rater")
    seed = int(store.facts()["seed"])
    rated = {
        rating.task for rating in store.ratings() if rating.rater.casefold() == name.casefold()
    }
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

    A row needs ``rater``, ``kind`` (``person`` or ``model``), ``texts`` in the order that was read,
    ``task`` or ``prompt``, and ``ranks``; or ``reason`` alone, where the rater could not judge.
    ``acceptable`` and ``seconds`` may stand beside them. Rows with neither ranks nor a reason are
    passed over, so a file that is half filled in may come twice.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A row cannot be taken; the message names its line, and nothing was taken.
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


def _rating(fields: Mapping[str, object], tasks: Mapping[str, RatingTask], ties: bool) -> Rating:
    rater, kind = _name(fields.get("rater"), "'rater'"), _kind(fields.get("kind"))
    texts = [strip_surplus_symbols(text) for text in _list(fields, "texts", str) or []]
    task = _task(fields, texts, tasks)
    places = {item.text: place for place, item in enumerate(task.items)}
    order = tuple(places[text] for text in texts)
    said = _list(fields, "ranks", int), _list(fields, "acceptable", bool)
    ranks, acceptable = judged(order, *said, ties)
    seconds, reason = _seconds(fields.get("seconds")), _reason(fields.get("reason"))
    return Rating(
        secrets.token_hex(16),
        rater,
        task.id,
        order,
        ranks,
        reason,
        seconds,
        acceptable=acceptable,
        kind=kind,
    )


def _task(
    fields: Mapping[str, object], texts: Sequence[str], tasks: Mapping[str, RatingTask]
) -> RatingTask:
    key, prompt = fields.get("task"), fields.get("prompt")
    found = [
        task
        for task in tasks.values()
        if (task.prompt == prompt if key is None else task.id == key)
        and sorted(item.text for item in task.items) == sorted(texts)
    ]
    if len(found) != 1:
        raise ValueError(
            f"expected 'task' or 'prompt', and 'texts', of one task of this file, got those of "
            f"{len(found)} (task {shown(key)}, {len(texts)} texts); give the rows that --export_tasks "
            "writes, with their texts as they are"
        )
    return found[0]


def _name(value: object, what: str) -> str:
    name = value.strip() if isinstance(value, str) else ""
    if not 1 <= len(name) <= LONGEST_NAME:
        raise ValueError(
            f"expected {what} to be a name of 1 to {LONGEST_NAME} characters, got {shown(value)}"
        )
    return name


def _kind(value: object) -> Kind:
    found = next((kind for kind in BY_KIND if kind == value), None)
    if found is None:
        raise ValueError(
            f"expected 'kind' to be {' or '.join(BY_KIND)}, got {shown(value)}; say who read"
        )
    return found


def _list(fields: Mapping[str, object], name: str, kind: type[T]) -> list[T] | None:
    """Return a list of values of one type; None where there is none."""
    value = fields.get(name)
    if value is None:
        return None
    # not isinstance: true is an int, and no rank
    if not isinstance(value, list) or not all(type(each) is kind for each in value):
        raise ValueError(f"expected {name!r} to be a list of {kind.__name__}, got {shown(value)}")
    return value


def _seconds(value: object) -> float:
    value = 0.0 if value is None else value
    if type(value) not in (int, float) or not 0 <= value <= MOST_SECONDS:  # type: ignore[operator]
        raise ValueError(
            f"expected 'seconds' to be from 0 to {MOST_SECONDS:.0f}, got {shown(value)}"
        )
    return float(value)  # type: ignore[arg-type]


def _reason(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(value.strip()) > LONGEST_REASON:
        raise ValueError(
            f"expected 'reason' to be text of at most {LONGEST_REASON} characters, got {shown(value)}"
        )
    return value.strip() or None
