"""What people rank: one response of each policy to a prompt."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlaif_pl.data.files import RawRow, read_rows
from rlaif_pl.data.sources import is_sensitive
from rlaif_pl.evaluation.human.records import shown_order
from rlaif_pl.evaluation.samples import group_in, samples_at
from rlaif_pl.text import shown, strip_surplus_symbols

MOST_ITEMS = 9  # ranked with the digits 1 to 9
REFERENCE = "reference"
IDENTICAL = "identical responses"
INCOMPLETE = "a policy without a response"


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


def texts_for(seed: int, rater: str, task: RatingTask) -> list[str]:
    """Return the texts of a task in the order in which a rater sees them."""
    order = shown_order(seed, rater, task.id, len(task.items))
    return [task.items[item].text for item in order]


@dataclass(frozen=True, slots=True)
class SamplesFile:
    """The tasks of a file of samples."""

    tasks: Sequence[RatingTask]  # in file order
    policies: tuple[str, ...]  # names of the policies
    left_out: Mapping[str, int]  # why others make no task, with their number
    is_sensitive: bool  # whether the texts should not be shown unasked


@dataclass(slots=True)
class _Prompt:
    """Responses to one prompt by policy, as read."""

    text: str
    group: str
    responses: dict[str, list[str]] = field(default_factory=dict)


def read_samples(
    path: Path | str,
    policies: Sequence[str] | None = None,
    per_prompt: int = 1,
    limit: int | None = None,
) -> SamplesFile:
    """Read samples and make tasks of them.

    The file is samples.jsonl of ``evaluate policy`` or ``evaluate matrix``; or has a row a response
    with prompt, policy, response (and group); or a row a pair with prompt, first, second.

    Args:
        path: JSONL, CSV or Parquet. Where the texts of samples.jsonl are hashes, those that stand
            beside it are read.
        policies: Policies to rank; None takes all, without the references. ``reference`` is the
            column of that name.
        per_prompt: Tasks a prompt, at most: the k-th has the k-th response of each policy.
        limit: Take the first so many prompts; None takes all.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Rows lack what is needed, a policy is unknown, or there is nothing to rank.
    """
    source, read = Path(path), samples_at(path)
    prompts = list(_prompts(list(read_rows(read)), source))
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
        left_out[INCOMPLETE] += 1
    for number in range(min(count, most)):
        authors: dict[str, list[str]] = {}
        for name, texts in zip(policies, columns, strict=True):
            text = strip_surplus_symbols(texts[number % len(texts)])
            authors.setdefault(text, []).append(name)
        if len(authors) < 2:
            left_out[IDENTICAL] += 1
            continue
        digest = hashlib.blake2b(f"{place}/{number}/{prompt.group}".encode(), digest_size=8)
        items = tuple(Item(text, tuple(names)) for text, names in authors.items())
        yield RatingTask(digest.hexdigest(), prompt.text, prompt.group, items)


def _prompts(rows: Sequence[RawRow], source: Path) -> Iterator[_Prompt]:
    """Read rows of any of the three kinds, told by the first."""
    if not rows:
        raise ValueError(f"expected samples in {source}, it is empty")
    first = rows[0].fields
    if "response" in first:
        yield from _long(rows)
        return
    # lists are responses of policies that are called so
    is_pair = {"first", "second"} <= set(first) and not isinstance(first["first"], list)
    for where, fields in rows:
        text = _text(where, fields, "prompt")
        prompt = _Prompt(text, group_in(fields, text))
        if is_pair:
            for name in ("first", "second"):
                prompt.responses[name] = [_text(where, fields, name)]
        else:
            prompt.responses = dict(_columns(fields))
        yield prompt


def _columns(fields: Mapping[str, object]) -> Iterator[tuple[str, list[str]]]:
    """Yield the columns that hold lists of texts, which are policies, and the reference."""
    for name, value in fields.items():
        if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
            yield name, value
        elif name == REFERENCE and isinstance(value, str):
            yield name, [value]


def _long(rows: Sequence[RawRow]) -> Iterator[_Prompt]:
    found: dict[tuple[str, str], _Prompt] = {}
    for where, fields in rows:
        text, policy = _text(where, fields, "prompt"), _text(where, fields, "policy")
        group = group_in(fields, text)
        prompt = found.setdefault((group, text), _Prompt(text, group))
        prompt.responses.setdefault(policy, []).append(_text(where, fields, "response"))
    yield from found.values()


def _text(where: str, fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise ValueError(
            f"{where}: expected {name!r} to be text, got {shown(value)} among "
            f"{', '.join(sorted(fields))}; give samples.jsonl of evaluate policy or evaluate matrix, "
            "or rows with prompt, policy, response or prompt, first, second"
        )
    return value
