"""Any table, its columns mapped to ours by name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from rlaif_pl.data.files import RawRow
from rlaif_pl.data.preferences import LoadedPreferences, gathered, group_of
from rlaif_pl.data.records import check
from rlaif_pl.data.sources.chosen_rejected import Choice, placed
from rlaif_pl.data.sources.messages import read_exchange
from rlaif_pl.text import shown
from rlaif_pl.types import Preference, Prompt, Provenance

LABELS = {
    **dict.fromkeys(("0", "first", "a", "modela"), 1.0),
    **dict.fromkeys(("1", "second", "b", "modelb"), 0.0),
    **dict.fromkeys(("tie", "tie(bothbad)", "bothbad"), 0.5),
}  # text in lower case, without white space, dashes and underscores, to p_first
YES_NO = {"true": 1.0, "false": 0.0}
PAIRS = ("chosen", "rejected"), ("first", "second")


class Columns:
    """Reads one table's rows by our names; a column of our own name needs no entry in ``theirs``."""

    def __init__(self, theirs: Mapping[str, str] | None) -> None:
        self.theirs = dict(theirs or {})

    def named(self, name: str) -> str:
        """Return their name of our column."""
        return self.theirs.get(name, name)

    def value(self, row: RawRow, name: str) -> object:
        """Return what stands in our column; None where it is absent, null or a gap (NaN)."""
        value = row.fields.get(self.named(name))
        return None if isinstance(value, float) and math.isnan(value) else value

    def has(self, row: RawRow, name: str) -> bool:
        """Tell whether the row holds something in our column."""
        return self.value(row, name) is not None

    def texts(self, row: RawRow, *answers: str) -> list[str] | str:
        """Return prompt and responses, as ``read_exchange`` does; or why the row is left out."""
        names = ("prompt", *answers)
        for name in names:
            if not isinstance(row.fields.get(self.named(name)), list | dict):
                self._check_text(row, name)
        prompt, *others = map(self.named, names)
        found = read_exchange(row, prompt, others)
        if isinstance(found, list) and found[0] == row.fields[prompt]:
            found[0] = found[0].strip()
        return found

    def _check_text(self, row: RawRow, name: str) -> None:
        theirs = self.named(name)
        value = row.fields.get(theirs)
        if theirs not in row.fields:
            raise ValueError(
                f"{row.where}: expected the column {theirs!r} (our {name!r}), got "
                f"{', '.join(sorted(row.fields))}; map it with `columns`"
            )
        if not isinstance(value, str) or not value.strip():
            raise ValueError(
                f"{row.where}: expected {theirs!r} to be some text, got {shown(value)}; fix or "
                "remove the row"
            )

    def number(self, row: RawRow, name: str) -> float:
        """Return the number in our column, also where a CSV holds it as text; else ValueError."""
        theirs = self.named(name)
        value = row.fields[theirs]
        try:
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                return float(value)
        except ValueError:
            pass
        raise ValueError(
            f"{row.where}: expected {theirs!r} to be a number, got {shown(value)}; fix it"
        )


def read_columns(
    rows: Iterable[RawRow], theirs: Mapping[str, str] | None, seed: int
) -> LoadedPreferences:
    """Read pairs from a table; ValueError names file, line and column."""
    columns = Columns(theirs)
    return gathered(_preference(columns, row, seed) for row in rows)


def read_column_prompt(row: RawRow, theirs: Mapping[str, str] | None) -> Prompt | None:
    """Read a prompt with any reference; None where that repeats another dialogue."""
    columns = Columns(theirs)
    found = columns.texts(row, *(["reference"] if columns.has(row, "reference") else []))
    if isinstance(found, str):
        return None
    return Prompt(found[0], _group(columns, row, found[0]), *found[1:])


def _preference(columns: Columns, row: RawRow, seed: int) -> Preference | str:
    is_chosen = "chosen" in columns.theirs or columns.has(row, "chosen")
    found = columns.texts(row, *PAIRS[0 if is_chosen else 1])
    if isinstance(found, str):
        return found
    prompt, first, second = found
    group = _group(columns, row, prompt)
    weight = columns.number(row, "weight") if columns.has(row, "weight") else 1.0
    if is_chosen:
        pair = placed(Choice(prompt, first, second), group, seed, weight)
    else:
        p_first = _p_first(columns, row)
        pair = Preference(
            prompt=prompt,
            first=first,
            second=second,
            group=group,
            p_first=p_first,
            weight=weight,
            source=None if p_first is None else "human",
            provenance=Provenance() if p_first is None else Provenance(strategy="human"),
        )
    check(pair, row.where)
    return pair


def _p_first(columns: Columns, row: RawRow) -> float | None:
    """Read the label, None where the row has none.

    A label that is a number is the place of the better response, 0 or 1, so a boolean would mean
    one side to some and the other to others: only ``p_first`` may be one.
    """
    given = columns.value(row, "p_first")
    if given is not None:
        said = YES_NO.get(str(given).strip().lower())
        return columns.number(row, "p_first") if said is None else said
    label = columns.value(row, "label")
    if label is None:
        return None
    p_first = LABELS.get(_plain(label))
    if p_first is None:
        theirs = columns.named("label")
        raise ValueError(
            f"{row.where}: expected the label to be 0, 'first', 'A' or 'model_a', 1, 'second', 'B' or "
            f"'model_b', or a tie, got {shown(label)} in {theirs!r}; rename the values, or map the "
            "column to p_first if true and 1 mean that the first is better"
        )
    return p_first


def _plain(label: object) -> str:
    """Return a label as ``LABELS`` has it: ``0`` for 0, 0.0 and "0.0", ``modela`` for "Model A"."""
    if isinstance(label, bool) or not isinstance(label, str | int | float):
        return ""
    text = re.sub(r"[\s_-]", "", label).lower() if isinstance(label, str) else str(label)
    return re.sub(r"^([01])\.0*$", r"\1", text)


def _group(columns: Columns, row: RawRow, prompt: str) -> str:
    """Return the group as text, or a hash of the prompt; 7 and 7.0 are the same group."""
    value = columns.value(row, "group")
    if value is None:
        return group_of(prompt)
    if not isinstance(value, str | int | float):
        theirs = columns.named("group")
        raise ValueError(
            f"{row.where}: expected {theirs!r} to be text or a number, got {shown(value)}; fix or "
            "leave out the column"
        )
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
