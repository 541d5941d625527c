"""Conversations as data sets hold them, and the text that is made of them; only text can be judged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from rlaif_pl.data.files import RawRow
from rlaif_pl.text import shown
from rlaif_pl.types import Conversation, Message, Role

ASSISTANT = "\n\nAssistant:"
SYSTEM = "\n\nSystem:"
SPEAKERS = {"user": "\n\nHuman:", "assistant": ASSISTANT, "system": SYSTEM}
SAME: dict[str, Role] = {"developer": "system", "human": "user", "gpt": "assistant"}
ROLES: dict[str, Role] = {"Human": "user", "Assistant": "assistant", "System": "system"}
KEYS = (("role", "from"), ("content", "value"))  # of a message, and as ShareGPT has them
_WRITTEN = re.compile(r"""\s*\[\s*\{\s*(['"])(role|content|from|value)\1\s*:""")
_TURN = re.compile(f"\n\n({'|'.join(ROLES)}):")
TEXT_PARTS = ("text", "input_text", "output_text")
CALLS = ("tool_calls", "function_call")
DIFFERS = "differs before the last message"
ELSEWHERE = "prompt is not in its dialogue"
EMPTY = "empty response"


class Side(NamedTuple):
    """A response by ``role``, with what was said before it where its column repeats that."""

    before: str | list[Message]
    answer: str
    role: str = "assistant"


def read_exchange(row: RawRow, prompt: str, answers: Sequence[str]) -> list[str] | str:
    """Read a prompt and the responses to it from these columns, each given as text or as messages.

    Responses may repeat the whole dialogue: then what stands before the last message is the prompt, if
    all responses agree on it and the prompt's column, where there is one, is part of it. A lone user
    message stands as it is; a longer conversation is written with ``Human:`` and ``Assistant:``.

    Returns the prompt's text and the stripped responses, or why the row has to be left out. ValueError:
    a column is missing or of another kind, or the prompt's is empty.
    """
    has_prompt = row.fields.get(prompt) is not None
    sides = _sides(row, answers, has_prompt)
    if not all(each.answer for each in sides):
        return EMPTY
    before = sides[0].before if sides else []
    if not has_prompt and sides and not all(each.before for each in sides):
        do = f"add a {prompt!r} column, or take another format"
        for name in answers:
            text = row.fields.get(name)
            if isinstance(text, str) and ASSISTANT not in text:
                raise row.wrong(f"{name!r} to be a dialogue with {ASSISTANT!r}", shown(text), do)
        names = " and ".join(map(repr, answers))
        if len(answers) == 1:
            do = "give rows without a response as prompts"
            raise row.wrong(f"{names} to hold a prompt and a response", "one message", do)
        counts = " and ".join(str(len(_listed(row, name)) or "no") for name in answers)
        raise row.wrong(f"{names} to share all messages but the last", f"{counts} messages", do)
    for name, side in zip(answers, sides, strict=True):
        if side.role != "assistant":
            raise _no_messages(row, name, f"a response of the role {side.role!r}")
    if not before:
        return [_conversation(row, prompt), *(each.answer for each in sides)]
    if any(each.before != before for each in sides):
        return DIFFERS
    said = before if isinstance(before, str) else as_text(before)
    text = _joined(row, prompt, before) if has_prompt else said
    return ELSEWHERE if text is None else [text, *(each.answer for each in sides)]


def ends_in_a_question(value: object) -> bool:
    """Tell whether a column holds messages of which the last is the user's, so that none answers."""
    last = value[-1] if isinstance(value, list) and value else None
    return isinstance(last, Mapping) and _values(last)[0] == "user"


def refuse_written_list(row: RawRow, names: Iterable[str]) -> None:
    """Refuse a list of messages that was made text, as a table of pandas holds it in a CSV file."""
    for name in names:
        value = row.fields.get(name)
        if isinstance(value, str) and _WRITTEN.match(value) and value.rstrip().endswith("]"):
            expected = f"{name!r} to be text or a list of messages"
            do = "write the rows as JSON lines or Parquet, where lists stay lists"
            raise row.wrong(expected, "a list of messages written as text", do)


def split_dialogue(text: str) -> tuple[str, str]:
    """Split text in HH's layout after its last ``Assistant:``; the response is stripped."""
    head, _, response = text.rpartition(ASSISTANT)
    return with_turns(head + ASSISTANT), response.strip()


def with_turns(text: str) -> str:
    """Return a text in HH's layout, up to where the assistant goes on, with its turns; others as is."""
    before, *parts = _TURN.split(text)
    if before.strip() or parts[-2:-1] != ["Assistant"] or parts[-1].strip():
        return text
    turns: list[Message] = []
    for speaker, said in zip(parts[:-2:2], parts[1:-2:2], strict=True):
        role, content = ROLES[speaker], said.strip()
        if turns and turns[-1].role == role:  # chat templates want them to alternate
            content = f"{turns.pop().content}\n\n{content}"
        turns.append(Message(role, content))
    return Conversation(text, tuple(turns)) if turns and turns[-1].role == "user" else text


def as_text(messages: Sequence[Message]) -> str:
    """Write a conversation as text that the assistant continues, and that keeps its turns."""
    if len(messages) == 1 and messages[0].role == "user":
        return Conversation(messages[0].content, tuple(messages))
    said = "".join(f"{SPEAKERS[each.role]} {each.content}" for each in messages)
    return Conversation(said + ASSISTANT, tuple(messages))


def _sides(row: RawRow, names: Sequence[str], has_prompt: bool) -> list[Side]:
    """Read the responses; what stands before them, as in HH, is kept where all of them have it."""
    values = [row.fields.get(name) for name in names]
    texts = [value for value in values if isinstance(value, str) and ASSISTANT in value]
    # beside a prompt, a response that goes on as a dialogue does is a response
    are_dialogues = not has_prompt or all(text.lstrip().startswith("Human:") for text in texts)
    if texts and texts == values and are_dialogues:
        return [Side(*split_dialogue(text)) for text in texts]
    whole = all(len(_listed(row, name)) > 1 for name in names)
    return [_side(row, name, whole) for name in names]


def _side(row: RawRow, name: str, whole: bool) -> Side:
    """Read one response: text, one message, or, where ``whole``, the last of several."""
    value = row.fields.get(name)
    if isinstance(value, str):
        return Side("", value.strip())
    messages = _messages(row, name)
    if len(messages) > 1 and not whole:
        do = "move all but the last to the prompt, or repeat the dialogue in every response"
        raise row.wrong(f"{name!r} to be one message", str(len(messages)), do)
    return Side(messages[:-1], messages[-1].content, messages[-1].role)


def _joined(row: RawRow, name: str, before: str | list[Message]) -> str | None:
    """Return the longer of a prompt and the dialogue that repeats it; None where it does not."""
    value = row.fields.get(name)
    if isinstance(before, str):
        return before if _conversation(row, name).strip() in before else None
    if isinstance(value, str):
        said = [message.content for message in before if message.role == "user"]
        is_there = value.strip() in (*said, as_text(before).strip())
        return as_text(before) if is_there else None
    prompt = _messages(row, name)
    if prompt[-len(before) :] == before:
        return as_text(prompt)
    is_there = prompt in (before[: len(prompt)], before[-len(prompt) :])
    return as_text(before) if is_there else None


def _conversation(row: RawRow, name: str) -> str:
    """Return a prompt's column as text, white space in front included: it belongs to dialogues."""
    value = row.fields.get(name)
    messages = [] if isinstance(value, str) else _messages(row, name)
    if messages and messages[-1].role == "assistant":
        do = f"map it as `columns: {{messages: {name}}}` if that is the response, or leave it out"
        raise row.wrong(f"{name!r} to end where a response begins", "a response in it", do)
    text = with_turns(value) if isinstance(value, str) else as_text(messages)
    if not text.strip():
        raise row.wrong(f"{name!r} to be some text", "none", "fix the row")
    return text


def _listed(row: RawRow, name: str) -> list[object]:
    """Return the items of a column that holds a list; none for any other value."""
    value = row.fields.get(name)
    return [value] if isinstance(value, Mapping) else value if isinstance(value, list) else []


def _messages(row: RawRow, name: str) -> list[Message]:
    """Read a column of messages; a message alone is a list of one."""
    items = _listed(row, name)
    if not items:
        raise _no_messages(row, name, shown(row.fields.get(name)))
    messages = []
    for number, item in enumerate(items, start=1):
        try:
            messages.append(_message(item))
        except ValueError as error:
            raise _no_messages(row, name, f"message {number} {error}") from error
    return messages


def _message(item: object) -> Message:
    """Read one message; ValueError says what it has, as in "message 2 with ..."."""
    if not isinstance(item, Mapping):
        raise ValueError(f"that is {shown(item)}")
    role, content = _values(item)
    if not isinstance(role, str) or role not in SPEAKERS:
        raise ValueError(f"of the role {shown(role)}" if role else "without a role")
    if any(item.get(name) for name in CALLS):
        raise ValueError("with tool calls")
    if isinstance(content, list) and content:
        content = "\n".join(_part(part) for part in content)
    if not isinstance(content, str):
        raise ValueError(f"with {shown(content)} as content" if content else "without content")
    return Message(cast(Role, role), content.strip())


def _values(item: Mapping[Any, object]) -> tuple[object, object]:
    """Return role, as we call it, and content of a message, by their usual names or ShareGPT's."""
    # null keys are as good as absent: a table has all that any message has
    role, content = (
        item.get(theirs) if item.get(ours) is None else item[ours] for ours, theirs in KEYS
    )
    return SAME.get(role, role) if isinstance(role, str) else role, content


def _part(part: object) -> str:
    """Return the text of one part of a message's content; keys that are null are as good as absent."""
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise ValueError(f"with a part that is {shown(part)}")
    given = {key: value for key, value in part.items() if value is not None}
    kind = given.get("type", "text" if given.keys() == {"text"} else None)
    text = given.get("text")
    if kind not in TEXT_PARTS or not isinstance(text, str):
        raise ValueError(f"with a part that is no text ({shown(kind or given)})")
    return text


def _no_messages(row: RawRow, name: str, got: str) -> ValueError:
    kinds = f"messages with role ({', '.join([*SPEAKERS, *SAME])}) and text as content"
    return row.wrong(f"{name!r} to be text or a list of {kinds}", got, "fix, leave out or map it")
