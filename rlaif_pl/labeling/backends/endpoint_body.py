"""What servers return, checked field by field: nothing that is missing is filled in.

Log-probabilities come as parallel lists (completions) or as a list of objects (chat; of some servers
completions, too), tokens as text, as bytes, or in the notation of the tokenizer's vocabulary. Half a
surrogate pair is read as U+FFFD.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from rlaif_pl.labeling.backends.endpoint_errors import BodyError, raise_reported
from rlaif_pl.text import parse_json

Table: TypeAlias = tuple[tuple[str, float], ...]
"""Likeliest tokens at one place: text and log-probability in nats."""
Logprobs: TypeAlias = tuple[tuple[str, ...], tuple[float | None, ...], tuple[Table, ...]]
THOUGHTS = ("reasoning", "reasoning_content", "thinking")  # fields of a message
NEVER = -9000.0  # servers write -9999 where JSON has no minus infinity
SLACK = 1e-3  # a log-probability may exceed 0 by this much rounding
Kind = TypeVar("Kind")
_BYTES = re.compile(r"^(?:bytes:((?:\\x[0-9a-fA-F]{2})+)|<0x([0-9A-Fa-f]{2})>)$")


@dataclass(frozen=True, slots=True)
class Completion:
    """One checked answer of a server."""

    text: str
    finish: str  # why it ended: `stop`, `length`, `content_filter`,
    refused: bool  # the server or the model declined
    tokens: tuple[str, ...]  # those with log-probabilities; with echo those of the prompt, too
    logprobs: tuple[float | None, ...]  # of each; None where there is nothing before it
    tables: tuple[Table, ...]  # likeliest tokens at each place; empty where none were reported
    read: int  # tokens of the prompt
    written: int  # tokens written
    thoughts: str | None = None  # thoughts that came in a field of their own; None where none did

    @property
    def only_thoughts(self) -> bool:
        """Whether thoughts came in a field of their own, and no answer after them."""
        return self.thoughts is not None and not self.text.strip()


def parse_body(content: str) -> Completion:
    """Check the body of a completion or a chat completion.

    ``BodyError``: it is no JSON (kind ``streamed``: a stream of events), lacks a field or has another
    than it must be, or holds an error (``status``) in place of an answer.
    """
    try:
        body = parse_json(content)
    except json.JSONDecodeError as error:
        kind = "streamed" if content.lstrip().startswith("data:") else "malformed_reply"
        raise BodyError(f"expected JSON, got {content[:60]!r} ({error})", kind) from error
    raise_reported(body)
    choices = _field(body, "choices", list)
    if not choices:
        raise BodyError("expected one choice, got none")
    choice = _checked(choices[0], "choice", dict)
    message, refused, thoughts = choice.get("message"), False, None
    if isinstance(message, dict):
        refused = bool(message.get("refusal"))
        text, thoughts = _said(message)
    else:
        text = _field(choice, "text", str)
    finish = choice.get("finish_reason") or "stop"
    usage = _field(body, "usage", dict)
    return Completion(
        text,
        str(finish),
        refused or finish == "content_filter",
        *_logprobs(choice.get("logprobs")),
        read=_count(usage, "prompt_tokens", None),
        written=_count(usage, "completion_tokens", 0),
        thoughts=thoughts,
    )


def _said(message: Mapping[str, object]) -> tuple[str, str | None]:
    """Return an answer and the thoughts beside it, in a field of their own or the content, if any."""
    found = [message[name] for name in THOUGHTS if message.get(name)]
    thoughts = _thought(found[0]) if found else None
    content = message.get("content")
    if content is None:
        return "", thoughts
    if not isinstance(content, list):
        return _checked(content, "content", str), thoughts
    parts = [_checked(part, "part", dict) for part in content]
    text = "".join(_field(part, "text", str) for part in parts if part.get("type") == "text")
    others = [part for part in parts if part.get("type") != "text"]
    if others and thoughts is None:
        thoughts = "".join(_thought(part.get("thinking", part.get("text"))) for part in others)
    return text, thoughts


def _thought(value: object) -> str:
    if isinstance(value, list):
        return "".join(_thought(part.get("text")) for part in value if isinstance(part, dict))
    return value if isinstance(value, str) else ""


def token_text(token: str, raw: object = None) -> str:
    """Return a token's text, whatever notation the server writes it in."""
    if isinstance(raw, list) and raw and all(isinstance(b, int) and 0 <= b < 256 for b in raw):
        return bytes(raw).decode("utf-8", errors="replace")
    if found := _BYTES.match(token):
        digits = found[2] or found[1].replace("\\x", "")
        return bytes.fromhex(digits).decode("utf-8", errors="replace")
    # SentencePiece writes a space as U+2581; byte-level BPE writes space and line feed as below.
    return token.replace("\u2581", " ").replace("\u0120", " ").replace("\u010a", "\n")


def _logprobs(found: object) -> Logprobs:
    """Read tokens, their log-probabilities and the tables beside them; all empty without any."""
    if not isinstance(found, dict):
        return (), (), ()
    if isinstance(content := found.get("content"), list):
        entries = [_checked(entry, "entry", dict) for entry in content]
        values = tuple(_number(entry.get("logprob")) for entry in entries)
        listed = (
            _checked(entry.get("top_logprobs") or [], "top_logprobs", list) for entry in entries
        )
        tables = (
            _table((_named(_checked(row, "entry", dict)), row.get("logprob")) for row in rows)
            for rows in listed
        )
        return tuple(map(_named, entries)), values, tuple(tables)
    if found.get("tokens") is None:
        return (), (), ()
    tokens = tuple(token_text(str(token)) for token in _field(found, "tokens", list))
    values = tuple(_number(value) for value in _field(found, "token_logprobs", list))
    if len(values) != len(tokens):
        raise BodyError(f"expected {len(tokens)} log-probabilities, got {len(values)}")
    given = _checked(found.get("top_logprobs") or [], "top_logprobs", list)
    checked = (_checked({} if table is None else table, "table", dict) for table in given)
    tables = (_table((token_text(t), value) for t, value in table.items()) for table in checked)
    return tokens, values, tuple(tables)


def _table(rows: Iterable[tuple[str, object]]) -> Table:
    checked = ((token, _number(value)) for token, value in rows)
    return tuple((token, value) for token, value in checked if value is not None)


def _named(entry: Mapping[str, object]) -> str:
    return token_text(_field(entry, "token", str), entry.get("bytes"))


def _number(value: object) -> float | None:
    """Check a log-probability; None stays None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= SLACK:
        raise BodyError(f"expected a log-probability of at most 0, got {value!r}")
    return -math.inf if value < NEVER else min(float(value), 0.0)


def _count(usage: Mapping[str, object], name: str, without: int | None) -> int:
    value = usage.get(name, without)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BodyError(f"expected usage.{name} to be a number of tokens, got {value!r}")
    return value


def _field(record: Any, name: str, kind: type[Kind]) -> Kind:
    """Return a field of a JSON object after checking both."""
    return _checked(record.get(name) if isinstance(record, dict) else None, name, kind)


def _checked(value: object, name: str, kind: type[Kind]) -> Kind:
    if not isinstance(value, kind):
        raise BodyError(f"expected {name!r} to be {kind.__name__}, got {str(value)[:60]!r}")
    return value
