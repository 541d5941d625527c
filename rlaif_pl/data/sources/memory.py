"""Records that are in memory already: lists of them, or a ``datasets.Dataset``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from rlaif_pl.data.files import RawRow
from rlaif_pl.data.records import record_fields
from rlaif_pl.data.sources.source import DataSource
from rlaif_pl.text import shown, whole_characters
from rlaif_pl.types import Preference, Prompt

Records: TypeAlias = (
    Sequence[Preference] | Sequence[Prompt] | Sequence[Mapping[str, Any]] | Sequence[str]
)
IN_MEMORY = "records in memory"  # what messages call them
if TYPE_CHECKING:  # what a config can say is a name
    import datasets

    Data: TypeAlias = DataSource | str | Records | datasets.Dataset
else:
    Data = DataSource | str


def named(data: Data) -> DataSource:
    """Return the source that data come from; records in memory come from one without a name."""
    if isinstance(data, DataSource):
        return data
    return DataSource(data if isinstance(data, str) else IN_MEMORY)


def is_records(data: object) -> bool:
    """Whether data are records, not the name of some."""
    return not isinstance(data, DataSource | str)


def memory_rows(records: Records | datasets.Dataset) -> Iterator[RawRow]:
    """Yield records as rows of a file, to be read and checked like those.

    They are ``Preference`` or ``Prompt`` objects, dicts in any layout that files may have, texts (which
    are prompts) or a ``datasets.Dataset`` of such rows; anything else is a TypeError.
    """
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
        where = f"record {number}"
        if isinstance(record, Preference | Prompt):
            yield RawRow(where, whole_characters(record_fields(record)))
        elif isinstance(record, Mapping):
            yield RawRow(where, whole_characters(dict(record)))
        elif isinstance(record, str):
            yield RawRow(where, {"text": whole_characters(record)})
        else:
            raise TypeError(
                f"{where}: expected a Preference, a Prompt, a dict or a text, got {shown(record)}"
            )
