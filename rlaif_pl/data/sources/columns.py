"""Rows with a column for each thing: any table, TRL's layouts, Anthropic HH's dialogues."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rlaif_pl.data.files import RawRow
from rlaif_pl.data.preferences import LoadedPreferences, gathered
from rlaif_pl.data.records import check, columns_in
from rlaif_pl.data.sides import chosen_is_first
from rlaif_pl.data.sources.cells import Columns
from rlaif_pl.text import shown
from rlaif_pl.types import Preference, Prompt, Provenance

LABELS = {
    **dict.fromkeys(("0", "first", "a", "modela"), 1.0),
    **dict.fromkeys(("1", "second", "b", "modelb"), 0.0),
    **dict.fromkeys(("tie", "tie(bothbad)", "bothbad"), 0.5),
}  # text in lower case, without white space, dashes and underscores, to p_first
YES_NO = {"true": 1.0, "false": 0.0}
CHOICE = ("chosen", "rejected")


def read_columns(rows: Iterable[RawRow], columns: Columns, seed: int) -> LoadedPreferences:
    """Read pairs: first and second with a label, or chosen and rejected (arXiv 2204.05862, TRL).

    Texts may be messages, and responses may repeat the whole dialogue; see ``messages.read_exchange``.
    Rows whose sides differ before the last message, whose prompt is not in their dialogue, that have
    an empty response or the same twice are left out and counted. ``seed`` decides which side the chosen
    one is put on. ValueError names file, line and column.
    """
    return gathered(_preference(columns, row, seed) for row in rows)


def read_column_prompt(row: RawRow, columns: Columns) -> Prompt | str:
    """Read a prompt with any reference; or why the row is left out.

    The reference is ``completion`` or the last of ``messages``, in a table ``reference``; chosen and
    rejected give none. Columns that are no text or group are kept for rewards that name them.
    """
    references = ("reference",) if columns.is_table else ("completion", "messages")
    reference = next((name for name in references if columns.has(row, name)), None)
    if reference is not None:
        found = columns.texts(row, reference)
    else:
        found = columns.texts(row, *(() if columns.is_table else CHOICE))
    if isinstance(found, str):
        return found
    read = map(columns.named, ("prompt", "group", "first", "second", *CHOICE, *references))
    return Prompt(
        found[0],
        columns.group(row, found[0]),
        None if reference is None else found[1],
        columns_in(row.fields, set(read)),
    )


def _preference(columns: Columns, row: RawRow, seed: int) -> Preference | str:
    is_choice = not columns.is_table or "chosen" in columns.theirs or columns.has(row, "chosen")
    found = columns.texts(row, *(CHOICE if is_choice else ("first", "second")))
    if isinstance(found, str):
        return found
    prompt, first, second = found
    p = columns.p_chosen(row) if is_choice else _p_first(columns, row)
    if is_choice:
        # who gave a `p_chosen` is not known where the row does not tell: most often an AI
        source = columns.source(row) or ("human" if p is None else None)
        p = 1.0 if p is None else p
        # a hash of seed and texts, so that the side tells nothing and no row's depends on the others
        if not chosen_is_first(seed, *found):
            first, second, p = second, first, 1.0 - p
    else:
        source = None if p is None else columns.source(row) or "human"
    pair = Preference(
        prompt,
        first,
        second,
        group=columns.group(row, prompt),
        p_first=p,
        weight=columns.weight(row),
        source=source,
        provenance=Provenance(strategy="human" if source == "human" else None),
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
