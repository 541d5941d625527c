"""Any table, its columns mapped to ours by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from rlaif_pl.data.files import RawRow
from rlaif_pl.data.preferences import LoadedPreferences, group_of
from rlaif_pl.data.records import check
from rlaif_pl.data.sources.chosen_rejected import Choice, placed
from rlaif_pl.types import Preference, Prompt, Provenance

LABELS: dict[object, float] = {
    0: 1.0,
    "0": 1.0,
    "first": 1.0,
    1: 0.0,
    "1": 0.0,
    "second": 0.0,
    "tie": 0.5,
}


class Columns:
    """Reads one table's rows by our names.

    Args:
        theirs: Our column name to theirs; a column of our own name needs no entry.
    """

    def __init__(self, theirs: Mapping[str, str] | None) -> None:
        self.theirs = dict(theirs or {})

    def has(self, row: RawRow, name: str) -> bool:
        """Tell whether the row holds something in our column."""
        return row.fields.get(self.theirs.get(name, name)) is not None

    def text(self, row: RawRow, name: str) -> str:
        """Return the stripped text of our column.

        Raises:
            ValueError: There is none.
        """
        theirs = self.theirs.get(name, name)
        value = row.fields.get(theirs)
        if theirs not in row.fields:
            raise ValueError(
                f"{row.where}: expected the column {theirs!r} (our {name!r}), got "
                f"{', '.join(sorted(row.fields))}; map it with `columns`"
            )
        if not isinstance(value, str) or not value.strip():
            raise ValueError(
                f"{row.where}: expected {theirs!r} to be some text, got {str(value)[:60]!r}; fix "
                "or remove the row"
            )
        return value.strip()

    def number(self, row: RawRow, name: str) -> float:
        """Return the number in our column, also where a CSV holds it as text.

        Raises:
            ValueError: It is no number.
        """
        theirs = self.theirs.get(name, name)
        value = row.fields[theirs]
        try:
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                return float(value)
        except ValueError:
            pass
        raise ValueError(f"{row.where}: expected {theirs!r} to be a number, got {value!r}; fix it")


def read_columns(
    rows: Iterable[RawRow], theirs: Mapping[str, str] | None, seed: int
) -> LoadedPreferences:
    """Read pairs from a table.

    Args:
        rows: Its rows.
        theirs: Our column name to theirs.
        seed: Places chosen and rejected, see ``chosen_rejected.placed``.

    Raises:
        ValueError: A column is missing or holds what it must not; names file, line and column.
    """
    columns = Columns(theirs)
    kept: list[Preference] = []
    dropped: Counter[str] = Counter()
    for row in rows:
        pair = _preference(columns, row, seed)
        check(pair, row.where)
        if pair.first == pair.second:
            dropped["identical responses"] += 1
        else:
            kept.append(pair)
    return LoadedPreferences(kept, dict(dropped))


def read_column_prompt(row: RawRow, theirs: Mapping[str, str] | None) -> Prompt:
    """Read a prompt, with its reference if there is one.

    Raises:
        ValueError: There is no prompt.
    """
    columns = Columns(theirs)
    text = columns.text(row, "prompt")
    reference = columns.text(row, "reference") if columns.has(row, "reference") else None
    return Prompt(text, _group(columns, row, text), reference)


def _preference(columns: Columns, row: RawRow, seed: int) -> Preference:
    """Read one pair."""
    prompt = columns.text(row, "prompt")
    group = _group(columns, row, prompt)
    weight = columns.number(row, "weight") if columns.has(row, "weight") else 1.0
    if "chosen" in columns.theirs or columns.has(row, "chosen"):
        choice = Choice(prompt, columns.text(row, "chosen"), columns.text(row, "rejected"))
        return placed(choice, group, seed, weight)
    p_first = _p_first(columns, row)
    return Preference(
        prompt=prompt,
        first=columns.text(row, "first"),
        second=columns.text(row, "second"),
        group=group,
        p_first=p_first,
        weight=weight,
        source=None if p_first is None else "human",
        provenance=Provenance() if p_first is None else Provenance(strategy="human"),
    )


def _p_first(columns: Columns, row: RawRow) -> float | None:
    """Read the label, None where the row has none."""
    if columns.has(row, "p_first"):
        return columns.number(row, "p_first")
    if not columns.has(row, "label"):
        return None
    label = row.fields[columns.theirs.get("label", "label")]
    known = label.strip().lower() if isinstance(label, str) else label
    if isinstance(known, bool) or not isinstance(known, str | int) or known not in LABELS:
        raise ValueError(
            f"{row.where}: expected the label to be 0 or 'first', 1 or 'second', or 'tie', got "
            f"{label!r}; rename the values or give p_first"
        )
    return LABELS[known]


def _group(columns: Columns, row: RawRow, prompt: str) -> str:
    """Return the group as text, or a hash of the prompt."""
    if not columns.has(row, "group"):
        return group_of(prompt)
    return str(row.fields[columns.theirs.get("group", "group")])
