"""Pairs given as chosen and rejected: Anthropic HH dialogues and TRL's prompt/chosen/rejected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from rlaif_pl.data.files import RawRow
from rlaif_pl.data.preferences import LoadedPreferences, gathered
from rlaif_pl.data.records import check, group_of
from rlaif_pl.data.sides import chosen_is_first
from rlaif_pl.data.sources.cells import Columns
from rlaif_pl.data.sources.messages import ASSISTANT, EMPTY, read_exchange, split_dialogue
from rlaif_pl.text import shown
from rlaif_pl.types import Preference, Prompt, Provenance

OURS = Columns(None)  # these layouts name their columns as we do


class Choice(NamedTuple):
    """A prompt with the better and the worse response."""

    prompt: str
    chosen: str
    rejected: str


def read_hh(rows: Iterable[RawRow], seed: int) -> LoadedPreferences:
    r"""Read whole dialogues that differ in the last Assistant turn (arXiv 2204.05862).

    The prompt is everything up to and including the last ``\n\nAssistant:``. Rows that are the
    same on both sides, differ earlier or end in an empty turn are left out and counted.
    """
    return gathered(_dialogues(row, seed) for row in rows)


def read_trl(rows: Iterable[RawRow], seed: int) -> LoadedPreferences:
    """Read ``prompt``, ``chosen`` and ``rejected``: strings, or lists of ``{role, content}``.

    ``chosen`` and ``rejected`` may repeat the whole dialogue, with or without a prompt beside it; see
    ``messages.read_exchange``. Rows whose sides differ before the last message, or whose prompt is
    not in their dialogue, are left out and counted, as are those that are the same on both sides or
    have an empty response.
    ``group``, ``weight``, ``p_chosen`` and ``source`` are read where they are there; see ``judged``.
    """
    return gathered(_exchange(row, seed) for row in rows)


def read_trl_prompt(row: RawRow) -> Prompt | str:
    """Read a TRL row's prompt; or why ``read_trl`` leaves it out.

    The reference is ``completion``, or the last of ``messages``; chosen and rejected give none.
    """
    demonstrated = next((name for name in ("completion", "messages") if name in row.fields), None)
    names = ("chosen", "rejected") if demonstrated is None else (demonstrated,)
    found = read_exchange(row, "prompt", names)
    if isinstance(found, str):
        return found
    return Prompt(found[0], OURS.group(row, found[0]), None if demonstrated is None else found[1])


def placed(choice: Choice, seed: int) -> Preference:
    """Put chosen and rejected into first and second so that the side tells nothing.

    The side is a hash of seed and texts: no row's place depends on the others.
    """
    is_first = chosen_is_first(seed, *choice)
    sides = (choice.chosen, choice.rejected) if is_first else (choice.rejected, choice.chosen)
    return Preference(
        prompt=choice.prompt,
        first=sides[0],
        second=sides[1],
        group=group_of(choice.prompt),
        p_first=float(is_first),
        source="human",
        provenance=Provenance(strategy="human"),
    )


def judged(pair: Preference, columns: Columns, row: RawRow) -> Preference:
    """Return a placed pair with what else the row says of it: group, weight, ``p_chosen``, source.

    Who gave a ``p_chosen`` is not known where the row does not tell: a label of an AI, most often.
    """
    p = columns.p_chosen(row)
    source = columns.source(row) or ("human" if p is None else None)
    if p is not None and not pair.p_first:
        p = 1.0 - p
    pair = replace(
        pair,
        group=columns.group(row, pair.prompt),
        weight=columns.weight(row),
        p_first=pair.p_first if p is None else p,
        source=source,
        provenance=Provenance(strategy="human" if source == "human" else None),
    )
    check(pair, row.where)
    return pair


def _exchange(row: RawRow, seed: int) -> Preference | str:
    found = read_exchange(row, "prompt", ("chosen", "rejected"))
    return found if isinstance(found, str) else judged(placed(Choice(*found), seed), OURS, row)


def _dialogues(row: RawRow, seed: int) -> Preference | str:
    prompt, chosen = _split_dialogue(row, "chosen")
    other, rejected = _split_dialogue(row, "rejected")
    if prompt != other:
        return "differs before the last Assistant turn"
    if not (chosen and rejected):
        return EMPTY
    return judged(placed(Choice(prompt, chosen, rejected), seed), OURS, row)


def _split_dialogue(row: RawRow, name: str) -> tuple[str, str]:
    """Split at the last Assistant turn; returns prompt and stripped response."""
    text = row.fields.get(name)
    if not isinstance(text, str) or ASSISTANT not in text:
        raise ValueError(
            f"{row.where}: expected {name!r} to be a dialogue with '\\n\\nAssistant:', got "
            f"{shown(text)}; is this an Anthropic HH file?"
        )
    return split_dialogue(text)
