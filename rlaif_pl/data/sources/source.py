"""What a user says about a data set: where it lies and how to read it, or its records themselves."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from rlaif_pl.data.files import RawRow
from rlaif_pl.data.records import record_fields
from rlaif_pl.text import shown, whole_characters
from rlaif_pl.types import Preference, Prompt

NAMES = (str, os.PathLike)  # what names data, where it is no DataSource
HARMFUL_NAMES = ("harmless", "red-team", "red_team", "redteam")  # of data about harm, HH's included
Format = Literal["auto", "preferences", "prompts", "columns", "openai_comparisons", "hh", "trl"]
TEXTS = ("prompt", "first", "second", "chosen", "rejected", "reference", "messages")
OUR_COLUMNS = (*TEXTS, "p_first", "p_chosen", "label", "weight", "group")


@dataclass(frozen=True)
class DataSource:
    """A data set and how to read it.

    Attributes:
        name: A file or folder, ``tiny_tldr/train|dev|final|pairs``,
            ``tiny_requests/train|dev|final|helpful|rl``, or a Hugging Face hub name.
        format: ``preferences`` and ``prompts`` are our own files; ``columns`` any table with
            ``columns``; ``auto`` looks at the first row and says in the log what it found.
        split: Split of a hub data set, or start of the file names in a folder.
        subset: Configuration of a hub data set, where it has several.
        data_dir: Folder inside a hub data set (``helpful-base`` of ``Anthropic/hh-rlhf``).
        revision: Commit, branch or tag of a hub data set; None takes the newest.
        columns: Our name to theirs, in tables, TRL's and HH's rows. Ours: prompt with first and
            second (and p_first, or label: 0, 1, ``first``, ``second``, ``tie``, ... as docs/data.md
            lists) or with chosen and rejected (and p_chosen, in [0, 1]), as text or messages; weight,
            group; prompt with reference for demonstrations.
        confidence: Keep only OpenAI comparisons with these confidences. The scale 1..9 is signed:
            1-4 go with the first summary, 6-9 with the second; strong ones are 1, 2, 8, 9.
        with_title: Put subreddit and title of OpenAI comparisons before the post (``text.titled``),
            as labelers that look at the title want it.
        part: Keep only the groups whose place, a number in [0, 1) that depends on nothing but their
            name, is in ``[part[0], part[1])``: ``[0, 0.67]`` and ``[0.67, 1]`` split a data set at
            random and for good, all rows of a group on one side.
        limit: Keep the first so many rows, after all filters; None keeps all.
        hard_labels: Round ``p_first`` to 0 or 1 and leave out exact ties.
        seed: Places chosen and rejected into first and second, so that the side tells nothing.
        sensitive: Keep its texts out of tables and pages (see ``is_sensitive``); None goes by the name.
        create_with: Command that gets or makes the data; named in the error where they are absent.
    """

    name: str
    format: Format = "auto"
    split: str = "train"
    subset: str | None = None
    data_dir: str | None = None
    revision: str | None = None
    columns: dict[str, str] | None = None
    confidence: list[int] | None = None
    with_title: bool = False
    part: tuple[float, float] | None = None
    limit: int | None = None
    hard_labels: bool = False
    seed: int = 0
    sensitive: bool | None = None
    create_with: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", os.fspath(self.name))  # a Path in Python
        if not self.name:
            raise ValueError("expected the name of a data set, got an empty one")
        if unknown := [name for name in self.columns or {} if name not in OUR_COLUMNS]:
            raise ValueError(
                f"expected columns to map from {', '.join(OUR_COLUMNS)}, got {unknown[0]!r}; write our "
                "name first, then theirs"
            )
        if wrong := [each for each in self.confidence or [] if not 1 <= each <= 9 or each == 5]:
            raise ValueError(
                f"expected confidences of the signed scale 1-4 and 6-9, got {wrong[0]}; for strong "
                "ones on both sides write [1, 2, 8, 9]"
            )
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"expected limit of at least 1, or null for all, got {self.limit}")
        if self.part is not None and not 0 <= self.part[0] < self.part[1] <= 1:
            raise ValueError(
                f"expected part as [from, to] with 0 <= from < to <= 1, got {self.part}"
            )


def is_sensitive(source: object) -> bool:
    """Tell whether a source's texts should not be shown unasked: as it says, or else by its name."""
    if isinstance(source, NAMES):
        source = DataSource(os.fspath(source))
    if not isinstance(source, DataSource):
        return False
    if source.sensitive is not None:
        return source.sensitive
    if source.name.startswith("tiny_requests/"):
        return source.name != "tiny_requests/helpful"
    named = " ".join([source.name, source.subset or "", source.data_dir or ""]).lower()
    return any(word in named for word in HARMFUL_NAMES)


Records: TypeAlias = (
    Sequence[Preference] | Sequence[Prompt] | Sequence[Mapping[str, Any]] | Sequence[str]
)
if TYPE_CHECKING:  # what a config can say is a name
    import datasets

    Data: TypeAlias = DataSource | str | os.PathLike[str] | Records | datasets.Dataset
else:
    Data = DataSource | str


def named(data: Data) -> DataSource:
    """Return the source that data come from; records in memory come from one without a name."""
    if isinstance(data, DataSource):
        return data
    return DataSource(os.fspath(data) if isinstance(data, NAMES) else "records in memory")


def memory_rows(records: Records | datasets.Dataset) -> Iterator[RawRow]:
    """Yield records as rows of a file, to be read and checked like those; a text is a prompt."""
    known: Any = sys.modules.get("datasets")  # whoever holds a data set of it has imported it
    if known and isinstance(records, known.DatasetDict | known.IterableDatasetDict):
        raise TypeError(
            f"expected one split of a data set, got all of {', '.join(map(str, records))}; pass one, "
            "such as data['train']"
        )
    is_table = known and isinstance(records, known.Dataset | known.IterableDataset)
    if not (is_table or isinstance(records, Sequence)):
        raise TypeError(
            f"expected a name, a list of records or a datasets.Dataset, got {type(records).__name__}; "
            "a pandas table becomes one by to_dict('records')"
        )
    for number, record in enumerate(records):
        fields: object = {"text": record} if isinstance(record, str) else record
        if isinstance(record, Preference | Prompt):
            fields = record_fields(record)
        if not isinstance(fields, Mapping):
            kinds = "a Preference, a Prompt, a dict or a text"
            raise TypeError(f"record {number}: expected {kinds}, got {shown(record)}")
        if odd := [name for name in fields if not isinstance(name, str)]:
            raise TypeError(f"record {number}: expected columns named by text, got {shown(odd[0])}")
        yield RawRow(f"record {number}", whole_characters(_plain(fields)))


def _plain(value: Any) -> Any:
    """Return a value with lists and numbers of Python in place of arrays (tables of pandas), tuples."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return _plain(value.tolist()) if isinstance(value, np.ndarray | np.generic) else value
