"""Rows with a column for each thing: any table, TRL's layouts, Anthropic HH's dialogues."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import get_args

from rlaif_pl.data.files import RawRow
from rlaif_pl.data.records import check, columns_in, group_of, group_text, is_gap
from rlaif_pl.data.sources.messages import ends_in_a_question, read_exchange
from rlaif_pl.data.splits import chosen_is_first
from rlaif_pl.text import shown
from rlaif_pl.types import Preference, Prompt, Provenance, Source

LABELS = {
    **dict.fromkeys(("0", "first", "a", "modela"), 1.0),
    **dict.fromkeys(("1", "second", "b", "modelb"), 0.0),
    **dict.fromkeys(("tie", "tie(bothbad)", "bothbad"), 0.5),
}  # text in lower case, without white space, dashes and underscores, to p_first
YES_NO = {"true": 1.0, "false": 0.0}
CHOICE = ("chosen", "rejected")
UNDESIRED = "labeled undesirable"


class Columns:
    """Reads one data set's rows by our names; a column of our own name needs no entry in ``theirs``.

    Tables have a column for each text; in TRL's and HH's layouts responses may repeat the prompt.
    ValueError names file, line and column.
    """

    def __init__(self, theirs: Mapping[str, str] | None, *, is_table: bool) -> None:
        self.theirs = dict(theirs or {})
        self.is_table = is_table

    def prompt(self, row: RawRow, *, answered: bool = False) -> Prompt | str:
        """Read a prompt with any ``completion`` or ``reference``; or why the row is left out.

        Messages that end in a user's are a prompt whole; where they are to be ``answered``, an error.
        """
        references = ("reference",) if self.is_table else ("completion", "messages")
        there = [name for name in references if self._value(row, name) is not None][:1]
        if not answered and there == ["messages"] and self._asks(row):
            there, found = [], read_exchange(row, self._named("messages"), ())
        elif there == ["completion"] and str(self._value(row, "label")).lower() == "false":
            there, found = [], UNDESIRED if answered else self._texts(row)  # of TRL's KTO
        else:
            found = self._texts(row, *(there or (() if self.is_table else CHOICE)))
        if isinstance(found, str):
            return found
        read = map(self._named, ("prompt", "group", "first", "second", *CHOICE, *references))
        further = columns_in(row.fields, set(read))
        return Prompt(found[0], self._group(row, found[0]), found[1] if there else None, further)

    def preference(self, row: RawRow, seed: int) -> Preference | str:
        """Read a pair, with a label or chosen and rejected; or why the row is left out.

        ``seed`` decides which side the chosen one is put on (arXiv 2204.05862, TRL have no sides).
        """
        is_choice = not self.is_table or "chosen" in self.theirs
        is_choice = is_choice or self._value(row, "chosen") is not None
        if not self.is_table and not set(map(self._named, CHOICE)) & row.fields.keys():
            got = f"a demonstration ({', '.join(sorted(row.fields))})"
            do = "give it as demonstrations or prompts, or add both columns"
            raise row.wrong("a pair, with chosen and rejected", got, do)
        found = self._texts(row, *(CHOICE if is_choice else ("first", "second")))
        if isinstance(found, str):
            return found
        prompt, first, second = found
        p = self._number(row, "p_chosen") if is_choice else self._p_first(row)
        said = self._value(row, "source")  # in other words than ours: where texts are from
        source: Source | None = next((each for each in get_args(Source) if each == said), None)
        # who gave a `p_chosen` is not known where the row does not tell: most often an AI
        if source is None and (p is None) == is_choice:
            source = "human"
        if is_choice:
            p = 1.0 if p is None else p
            if not 0.0 <= p <= 1.0:
                raise row.wrong(
                    f"{self._named('p_chosen')!r} to be a probability in [0, 1]", str(p)
                )
            if not chosen_is_first(seed, *found):
                first, second, p = second, first, 1.0 - p
        elif p is None:
            source = None
        group, weight = self._group(row, prompt), self._number(row, "weight")
        weight = 1.0 if weight is None else weight
        provenance = Provenance(strategy="human" if source == "human" else None)
        pair = Preference(prompt, first, second, group, p, weight, source, provenance)
        return check(pair, row.where)

    def _asks(self, row: RawRow) -> bool:
        """Tell whether a row's messages are the prompt, whole: nobody answers the last."""
        has_prompt = self._value(row, "prompt") is not None
        return not has_prompt and ends_in_a_question(self._value(row, "messages"))

    def _named(self, name: str) -> str:
        return self.theirs.get(name, name)

    def _value(self, row: RawRow, name: str) -> object:
        """Return what stands in our column; None where it is absent, null or a gap (NaN)."""
        value = row.fields.get(self._named(name))
        return None if is_gap(value) else value

    def _texts(self, row: RawRow, *answers: str) -> list[str] | str:
        """Return prompt and responses, as ``read_exchange`` does; or why the row is left out."""
        prompt, *others = map(self._named, ("prompt", *answers))
        for name in (prompt, *others) if self.is_table else ():
            value = row.fields.get(name)
            if name not in row.fields:
                ours = next(each for each in ("prompt", *answers) if self._named(each) == name)
                there = ", ".join(sorted(row.fields))
                told = f"the column {name!r}" + f" (our {ours!r})" * (name != ours)
                raise row.wrong(told, there, f"name yours: `columns: {{{ours}: THEIRS}}`")
            is_text = isinstance(value, str) and (name != prompt or value.strip())
            if not is_text and not isinstance(value, list | dict):
                raise row.wrong(f"{name!r} to be some text", shown(value))
        found = read_exchange(row, prompt, others)
        if self.is_table and isinstance(found, list) and found[0] == row.fields[prompt]:
            found[0] = found[0].strip()  # of dialogues it is a part
        return found

    def _number(self, row: RawRow, name: str) -> float | None:
        """Return the number in our column, also where a CSV holds it as text; None where none is."""
        value = self._value(row, name)
        if value is None:
            return None
        with suppress(ValueError):
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                return float(value)
        raise row.wrong(f"{self._named(name)!r} to be a number", shown(value), "fix it")

    def _group(self, row: RawRow, prompt: str) -> str:
        """Return the group as text (see ``group_text``), or a hash of the prompt."""
        value = self._value(row, "group")
        if value is not None and not isinstance(value, str | int | float):
            expected = f"{self._named('group')!r} to be text or a number"
            raise row.wrong(expected, shown(value), "fix or leave out the column")
        return group_of(prompt) if value is None else group_text(value)

    def _p_first(self, row: RawRow) -> float | None:
        """Read the label, None where the row has none.

        A number is the place of the better response, 0 or 1, so a boolean would mean one side to some
        and the other to others: only ``p_first`` may be one.
        """
        given = self._value(row, "p_first")
        if given is not None:
            said = YES_NO.get(str(given).strip().lower())
            return self._number(row, "p_first") if said is None else said
        label = self._value(row, "label")
        p_first = LABELS.get(_plain(label))
        if label is not None and p_first is None:
            raise row.wrong(
                "the label to be 0, 'first', 'A' or 'model_a', 1, 'second', 'B' or 'model_b', or a tie",
                f"{shown(label)} in {self._named('label')!r}",
                "rename the values, or map the column to p_first if true and 1 mean that the first is "
                "better",
            )
        return p_first


def _plain(label: object) -> str:
    """Return a label as ``LABELS`` has it: ``0`` for 0, 0.0 and "0.0", ``modela`` for "Model A"."""
    if isinstance(label, bool) or not isinstance(label, str | int | float):
        return ""
    text = re.sub(r"[\s_-]", "", label).lower() if isinstance(label, str) else str(label)
    return re.sub(r"^([01])\.0*$", r"\1", text)
