"""Pairs given as chosen and rejected: Anthropic HH dialogues and TRL's prompt/chosen/rejected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from rlaif_pl.data.files import RawRow
from rlaif_pl.data.preferences import LoadedPreferences, group_of
from rlaif_pl.data.sides import chosen_is_first
from rlaif_pl.types import Preference, Prompt, Provenance

ASSISTANT = "\n\nAssistant:"
SPEAKERS = {"user": "\n\nHuman:", "assistant": ASSISTANT, "system": "\n\nSystem:"}


class Choice(NamedTuple):
    """A prompt with the better and the worse response."""

    prompt: str
    chosen: str
    rejected: str


def read_hh(rows: Iterable[RawRow], seed: int) -> LoadedPreferences:
    r"""Read whole dialogues that differ in the last Assistant turn (arXiv 2204.05862).

    The prompt is everything up to and including the last ``\n\nAssistant:``. Rows that are the
    same on both sides, differ earlier or end in an empty turn are left out and counted.

    Args:
        rows: Rows with ``chosen`` and ``rejected``.
        seed: See ``placed``.

    Raises:
        ValueError: A side is no dialogue.
    """
    kept: list[Preference] = []
    dropped: Counter[str] = Counter()
    for row in rows:
        prompt, chosen = _split_dialogue(row, "chosen")
        other, rejected = _split_dialogue(row, "rejected")
        if prompt != other:
            dropped["differs before the last Assistant turn"] += 1
        elif chosen == rejected:
            dropped["identical responses"] += 1
        elif not chosen or not rejected:
            dropped["empty response"] += 1
        else:
            kept.append(placed(Choice(prompt, chosen, rejected), group_of(prompt), seed))
    return LoadedPreferences(kept, dict(dropped))


def read_trl(rows: Iterable[RawRow], seed: int) -> LoadedPreferences:
    """Read ``prompt``, ``chosen`` and ``rejected``: strings, or lists of ``{role, content}``.

    Without a prompt, the messages both sides begin with are the prompt. A lone user message stands
    as it is; a longer conversation is written with ``Human:`` and ``Assistant:`` as in HH.

    Args:
        rows: Rows of the three columns.
        seed: See ``placed``.

    Raises:
        ValueError: A column is missing, empty or of another type; names file, line and field.
    """
    kept: list[Preference] = []
    dropped: Counter[str] = Counter()
    for row in rows:
        choice = _trl_choice(row)
        if choice.chosen == choice.rejected:
            dropped["identical responses"] += 1
        else:
            kept.append(placed(choice, group_of(choice.prompt), seed))
    return LoadedPreferences(kept, dict(dropped))


def read_trl_prompt(row: RawRow) -> Prompt:
    """Read the prompt of a TRL row, with ``completion`` as its reference if there is one.

    Raises:
        ValueError: See ``read_trl``.
    """
    if "completion" not in row.fields:
        text = _trl_choice(row).prompt
        return Prompt(text, group_of(text))
    text = _conversation(row, "prompt")
    return Prompt(text, group_of(text), _answer(row, "completion"))


def placed(choice: Choice, group: str, seed: int, weight: float = 1.0) -> Preference:
    """Put chosen and rejected into first and second so that the side tells nothing.

    The side is a hash of seed and texts: no row's place depends on the others.
    """
    is_first = chosen_is_first(seed, *choice)
    sides = (choice.chosen, choice.rejected) if is_first else (choice.rejected, choice.chosen)
    return Preference(
        prompt=choice.prompt,
        first=sides[0],
        second=sides[1],
        group=group,
        p_first=float(is_first),
        weight=weight,
        source="human",
        provenance=Provenance(strategy="human"),
    )


def _split_dialogue(row: RawRow, name: str) -> tuple[str, str]:
    """Split at the last Assistant turn; returns prompt and stripped response."""
    text = row.fields.get(name)
    if not isinstance(text, str) or ASSISTANT not in text:
        raise ValueError(
            f"{row.where}: expected {name!r} to be a dialogue with '\\n\\nAssistant:', got "
            f"{type(text).__name__} without; is this an Anthropic HH file?"
        )
    head, _, response = text.rpartition(ASSISTANT)
    return head + ASSISTANT, response.strip()


def _trl_choice(row: RawRow) -> Choice:
    """Read one row of TRL columns."""
    if row.fields.get("prompt") is not None:
        return Choice(
            _conversation(row, "prompt"), _answer(row, "chosen"), _answer(row, "rejected")
        )
    chosen, rejected = _messages(row, "chosen"), _messages(row, "rejected")
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    if not shared or len(chosen) != shared + 1 or len(rejected) != shared + 1:
        raise ValueError(
            f"{row.where}: expected 'chosen' and 'rejected' to share all messages but the last, "
            f"got {len(chosen)} and {len(rejected)} with {shared} shared; add a 'prompt' column"
        )
    return Choice(_as_text(chosen[:shared]), chosen[shared][1], rejected[shared][1])


def _conversation(row: RawRow, name: str) -> str:
    """Return a prompt column as text."""
    value = row.fields.get(name)
    text = value if isinstance(value, str) else _as_text(_messages(row, name))
    _nonempty(row, name, text)
    return text  # as it is: white space in front belongs to dialogues


def _answer(row: RawRow, name: str) -> str:
    """Return a response column as text: a string, or a list of one message."""
    value = row.fields.get(name)
    if not isinstance(value, str):
        messages = _messages(row, name)
        if len(messages) != 1:
            raise ValueError(
                f"{row.where}: expected {name!r} to be one message, got {len(messages)}; move all "
                "but the last to 'prompt'"
            )
        value = messages[0][1]
    return _nonempty(row, name, value)


def _messages(row: RawRow, name: str) -> list[tuple[str, str]]:
    """Return a conversational column as (role, content)."""
    value = row.fields.get(name)
    messages = value if isinstance(value, list) else []
    parsed = [(item.get("role"), item.get("content")) for item in messages if hasattr(item, "get")]
    good = all(role in SPEAKERS and isinstance(content, str) for role, content in parsed)
    if not parsed or len(parsed) != len(messages) or not good:
        raise ValueError(
            f"{row.where}: expected {name!r} to be text or a list of messages with role "
            f"({', '.join(SPEAKERS)}) and content, got {str(value)[:60]!r}; fix or map the column"
        )
    return [(str(role), str(content).strip()) for role, content in parsed]


def _as_text(messages: list[tuple[str, str]]) -> str:
    """Write a conversation as text that the assistant continues."""
    if len(messages) == 1 and messages[0][0] == "user":
        return messages[0][1]
    return "".join(f"{SPEAKERS[role]} {content}" for role, content in messages) + ASSISTANT


def _nonempty(row: RawRow, name: str, text: str) -> str:
    """Refuse empty text."""
    if not text.strip():
        raise ValueError(f"{row.where}: expected {name!r} to be some text, got none; fix the row")
    return text.strip()
