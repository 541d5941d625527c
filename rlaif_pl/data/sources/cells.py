"""Cells of a table's rows, by our names of its columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from rlaif_pl.data.files import RawRow
from rlaif_pl.data.records import group_of, group_text, is_gap
from rlaif_pl.data.sources.messages import read_exchange
from rlaif_pl.text import shown
from rlaif_pl.types import Source


class Columns:
    """Reads one data set's rows by our names; a column of our own name needs no entry in ``theirs``.

    Tables have a column for each text, of which white space around the prompt is no part. TRL's layouts
    and HH's may repeat the prompt in the responses instead, and keep it as it stands: its beginning
    belongs to dialogues.
    """

    def __init__(self, theirs: Mapping[str, str] | None, *, is_table: bool) -> None:
        self.theirs = dict(theirs or {})
        self.is_table = is_table

    def named(self, name: str) -> str:
        """Return their name of our column."""
        return self.theirs.get(name, name)

    def value(self, row: RawRow, name: str) -> object:
        """Return what stands in our column; None where it is absent, null or a gap (NaN)."""
        value = row.fields.get(self.named(name))
        return None if is_gap(value) else value

    def has(self, row: RawRow, name: str) -> bool:
        """Tell whether the row holds something in our column."""
        return self.value(row, name) is not None

    def texts(self, row: RawRow, *answers: str) -> list[str] | str:
        """Return prompt and responses, as ``read_exchange`` does; or why the row is left out."""
        names = ("prompt", *answers)
        for name in names if self.is_table else ():
            if not isinstance(row.fields.get(self.named(name)), list | dict):
                self._check_text(row, name, may_be_blank=name != "prompt")
        prompt, *others = map(self.named, names)
        found = read_exchange(row, prompt, others)
        if self.is_table and isinstance(found, list) and found[0] == row.fields[prompt]:
            found[0] = found[0].strip()
        return found

    def _check_text(self, row: RawRow, name: str, *, may_be_blank: bool) -> None:
        theirs = self.named(name)
        value = row.fields.get(theirs)
        if theirs not in row.fields:
            raise ValueError(
                f"{row.where}: expected the column {theirs!r} (our {name!r}), got "
                f"{', '.join(sorted(row.fields))}; map it with `columns`"
            )
        if not isinstance(value, str) or not (may_be_blank or value.strip()):
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

    def group(self, row: RawRow, prompt: str) -> str:
        """Return the group as text (see ``group_text``), or a hash of the prompt."""
        value = self.value(row, "group")
        if value is None:
            return group_of(prompt)
        if not isinstance(value, str | int | float):
            theirs = self.named("group")
            raise ValueError(
                f"{row.where}: expected {theirs!r} to be text or a number, got {shown(value)}; fix or "
                "leave out the column"
            )
        return group_text(value)

    def weight(self, row: RawRow) -> float:
        """Return the weight in the loss; 1 where the row has none."""
        return self.number(row, "weight") if self.has(row, "weight") else 1.0

    def source(self, row: RawRow) -> Source | None:
        """Return who judged, where the row says it in our words (others name where texts are from)."""
        value = self.value(row, "source")
        return next((each for each in get_args(Source) if each == value), None)

    def p_chosen(self, row: RawRow) -> float | None:
        """Return how likely the chosen one is better, in [0, 1]; None where the row says no more."""
        if not self.has(row, "p_chosen"):
            return None
        p = self.number(row, "p_chosen")
        if not 0.0 <= p <= 1.0:
            raise ValueError(
                f"{row.where}: expected {self.named('p_chosen')!r} to be a probability in [0, 1], got "
                f"{p}; fix or remove the row"
            )
        return p
