"""What people rank: one response of each policy to a prompt; and how they ranked it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from rlaif_pl.data.files import RawRow, read_rows
from rlaif_pl.data.sources import is_sensitive
from rlaif_pl.evaluation.human.records import Rating, shown_order
from rlaif_pl.evaluation.samples import group_in, samples_at
from rlaif_pl.text import shown, strip_surplus_symbols

MOST_ITEMS = 9  # ranked with the digits 1 to 9
REFERENCE = "reference"


@dataclass(frozen=True, slots=True)
class Item:
    """One text to rank."""

    text: str  # the response, without surplus symbols at its end
    policies: tuple[str, ...]  # who wrote it; several where their responses are the same text


@dataclass(frozen=True, slots=True)
class RatingTask:
    """Responses to one prompt that a person ranks."""

    id: str  # names the task; tells nothing about policies
    prompt: str  # what is responded to
    group: str  # identity of the prompt
    items: tuple[Item, ...]  # at least two different texts, in the order of the policies

    def item_of(self, policy: str) -> int:
        """Return the place of a policy's text in ``items``; every task has one of each policy."""
        return next(n for n, item in enumerate(self.items) if policy in item.policies)

    def pairs(self) -> list[tuple[int, int]]:
        """Return the places of every two items."""
        return list(combinations(range(len(self.items)), 2))


Tasks = Mapping[str, RatingTask]  # by id


@dataclass(frozen=True, slots=True)
class Ranked:
    """A task with what raters of one kind said of it."""

    task: RatingTask
    ranks: Sequence[tuple[int, ...]]  # of each item by each rater, 1 is best. `(raters, items)`
    skipped: int  # raters who could not judge it

    def share(self, a: int, b: int) -> float:
        """Return the share of raters who rank item ``a`` above item ``b``; a tie counts half."""
        return float(np.mean([win_of(row, a, b) for row in self.ranks]))


def win_of(ranks: Sequence[int], a: int, b: int) -> float:
    """Return 1 where item ``a`` is ranked above item ``b``, 0 where below, 0.5 where they tie."""
    return ((ranks[a] < ranks[b]) - (ranks[a] > ranks[b]) + 1) / 2


def grouped(ratings: Sequence[Rating], by: Literal["task", "name"]) -> dict[str, list[Rating]]:
    """Return ratings by their task or their rater, in the order in which those began."""
    found: dict[str, list[Rating]] = {}
    for rating in ratings:
        found.setdefault(getattr(rating, by), []).append(rating)
    return found


def gather(tasks: Tasks, ratings: Sequence[Rating]) -> list[Ranked]:
    """Put ratings beside their tasks; tasks that nobody ranked are left out."""
    found, by_task = [], grouped(ratings, "task")
    for key, task in tasks.items():
        given = by_task.get(key, [])
        ranks = [rating.ranks for rating in given if rating.ranks is not None]
        if ranks:
            found.append(Ranked(task, ranks, len(given) - len(ranks)))
    return found


def texts_for(seed: int, rater: str, task: RatingTask) -> list[str]:
    """Return the texts of a task in the order in which a rater sees them."""
    order = shown_order(seed, rater, task.id, len(task.items))
    return [task.items[item].text for item in order]


class SamplesFile(NamedTuple):
    """The tasks of a file of samples."""

    tasks: Sequence[RatingTask]  # in file order
    policies: tuple[str, ...]
    left_out: Mapping[str, int]  # why others make no task, with their number
    is_sensitive: bool  # whether the texts should not be shown unasked


class _Prompt(NamedTuple):
    text: str
    group: str
    responses: dict[str, list[str]]  # by policy


def read_samples(
    path: Path | str,
    policies: Sequence[str] | None = None,
    per_prompt: int = 1,
    limit: int | None = None,
) -> SamplesFile:
    """Read samples and make tasks of them.

    The file (JSONL, CSV or Parquet) is samples.jsonl of ``evaluate policy`` or ``evaluate matrix``; or
    has a row a response with prompt, policy, response (and group); or a row a pair with prompt, first,
    second. Where texts are hashes, those that stand beside it are read. The k-th task of a prompt, of
    at most ``per_prompt``, has the k-th response of each of ``policies``; None takes all but
    ``reference``. ``ValueError``: rows lack what is needed, a policy is unknown, or there is nothing
    to rank.
    """
    source, read = Path(path), samples_at(path)
    prompts = _prompts(list(read_rows(read)), source)
    known = dict.fromkeys(name for prompt in prompts for name in prompt.responses)
    chosen = tuple(policies or [name for name in known if name != REFERENCE])
    unknown = [name for name in chosen if name not in known]
    if unknown or not 2 <= len(set(chosen)) == len(chosen) <= MOST_ITEMS or per_prompt < 1:
        raise ValueError(
            f"expected 2 to {MOST_ITEMS} different policies among {list(known)} of {source} and "
            f"per_prompt of at least 1, got {list(chosen)} and {per_prompt}; choose with --policies"
        )
    left_out: Counter[str] = Counter()
    tasks: list[RatingTask] = []
    for place, prompt in enumerate(prompts[:limit]):
        tasks += _tasks(prompt, chosen, per_prompt, place, left_out)
    if not tasks:
        raise ValueError(f"expected responses to rank in {source}, got none: {dict(left_out)}")
    return SamplesFile(tasks, chosen, dict(left_out), read != source or is_sensitive(str(source)))


def _tasks(
    prompt: _Prompt, policies: Sequence[str], most: int, place: int, left_out: Counter[str]
) -> Iterator[RatingTask]:
    columns = [prompt.responses.get(name, []) for name in policies]
    # a reference is one text, which stands beside each of the policies' samples
    sizes = [len(c) for name, c in zip(policies, columns, strict=True) if name != REFERENCE]
    count = min(sizes, default=0) if all(columns) else 0
    if not count:
        left_out["a policy without a response"] += 1
    for number in range(min(count, most)):
        authors: dict[str, list[str]] = {}
        for name, texts in zip(policies, columns, strict=True):
            text = strip_surplus_symbols(texts[number % len(texts)])
            authors.setdefault(text, []).append(name)
        if len(authors) < 2:
            left_out["identical responses"] += 1
            continue
        digest = hashlib.blake2b(f"{place}/{number}/{prompt.group}".encode(), digest_size=8)
        items = tuple(Item(text, tuple(names)) for text, names in authors.items())
        yield RatingTask(digest.hexdigest(), prompt.text, prompt.group, items)


def _prompts(rows: Sequence[RawRow], source: Path) -> list[_Prompt]:
    """Read rows of any of the three kinds, told by the first."""
    if not rows:
        raise ValueError(f"expected samples in {source}, it is empty")
    first = rows[0].fields
    # lists are responses of policies that are called so
    is_pair = {"first", "second"} <= set(first) and not isinstance(first["first"], list)
    found: dict[object, _Prompt] = {}
    for number, (where, fields) in enumerate(rows):
        text = _text(where, fields, "prompt")
        group = group_in(fields, text)
        key = (group, text) if "response" in first else number
        responses = found.setdefault(key, _Prompt(text, group, {})).responses
        if "response" in first:
            names = responses.setdefault(_text(where, fields, "policy"), [])
            names.append(_text(where, fields, "response"))
        elif is_pair:
            responses |= {name: [_text(where, fields, name)] for name in ("first", "second")}
        else:
            responses |= _columns(fields)
    return list(found.values())


def _columns(fields: Mapping[str, object]) -> Iterator[tuple[str, list[str]]]:
    """Yield the columns that hold lists of texts, which are policies, and the reference."""
    for name, value in fields.items():
        if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
            yield name, value
        elif name == REFERENCE and isinstance(value, str):
            yield name, [value]


def _text(where: str, fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise ValueError(
            f"{where}: expected {name!r} to be text, got {shown(value)} among "
            f"{', '.join(sorted(fields))}; give samples.jsonl of evaluate policy or evaluate matrix, "
            "or rows with prompt, policy, response or prompt, first, second"
        )
    return value
