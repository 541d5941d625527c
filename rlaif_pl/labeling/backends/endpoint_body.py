"""What servers return, checked field by field: nothing that is missing is filled in.

Servers that speak OpenAI's protocol differ in small ways: log-probabilities come as parallel lists
(completions) or as a list of objects (chat; some servers use it for completions, too), tokens come as
text, as bytes, or in the notation of the tokenizer's vocabulary.
Half a surrogate pair is read as U+FFFD.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from rlaif_pl.labeling.backends.endpoint_errors import Table, raise_reported
from rlaif_pl.text import parse_json

THOUGHTS = ("reasoning", "reasoning_content", "thinking")  # fields of a message
NEVER = -9000.0  # servers write -9999 where JSON has no minus infinity
SLACK = 1e-3  # a log-probability may exceed 0 by this much rounding
Kind = TypeVar("Kind")
_BYTES = re.compile(r"^bytes:((?:\\x[0-9a-fA-F]{2})+)$")
_BYTE = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")


class BodyError(ValueError):
    """A body that is not what the protocol promises; ``kind`` is the failure to report."""

    def __init__(self, message: str, kind: str = "malformed_reply") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Completion:
    """One checked answer of a server."""

    text: str  # what was written
    finish: str  # why it ended: `stop`, `length`, `content_filter`,
    refused: bool  # the server or the model declined
    # text of each token that has log-probabilities; those of the prompt, too, with echo
    tokens: tuple[str, ...]
    # log-probability of each of them, None where there is nothing before it
    logprobs: tuple[float | None, ...]
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

    Raises:
        BodyError: It is no JSON (kind ``streamed`` where it is a stream of events), or a field is
            missing or of another kind than it must be.
        ReportedError: It holds an error in place of an answer.
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
    choice = choices[0]
    if not isinstance(choice, dict):
        raise BodyError(f"expected an object as choice, got {type(choice).__name__}")
    message = choice.get("message")
    refused, thoughts = False, None
    if isinstance(message, dict):
        refused = bool(message.get("refusal"))
        text, thoughts = _said(message)
    else:
        text = _field(choice, "text", str)
    finish = choice.get("finish_reason") or "stop"
    tokens, logprobs, tables = _logprobs(choice.get("logprobs"))
    usage = _field(body, "usage", dict)
    return Completion(
        text=text,
        finish=str(finish),
        refused=refused or finish == "content_filter",
        tokens=tokens,
        logprobs=logprobs,
        tables=tables,
        read=_count(usage, "prompt_tokens"),
        written=_count(usage, "completion_tokens"),
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
        return _field(message, "content", str), thoughts
    parts = [_field({"part": part}, "part", dict) for part in content]
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
        return bytes.fromhex(found[1].replace("\\x", "")).decode("utf-8", errors="replace")
    if found := _BYTE.match(token):
        return bytes.fromhex(found[1]).decode("utf-8", errors="replace")
    # SentencePiece writes a space as U+2581; byte-level BPE writes space and line feed as below.
    return token.replace("\u2581", " ").replace("\u0120", " ").replace("\u010a", "\n")


def _logprobs(found: object) -> tuple[tuple[str, ...], tuple[float | None, ...], tuple[Table, ...]]:
    """Read tokens, their log-probabilities and the tables beside them; all empty without any."""
    if not isinstance(found, dict):
        return (), (), ()
    if isinstance(content := found.get("content"), list):
        entries = [_field({"entry": entry}, "entry", dict) for entry in content]
        return (
            tuple(_named(entry) for entry in entries),
            tuple(_number(entry.get("logprob")) for entry in entries),
            tuple(_listed(entry) for entry in entries),
        )
    if found.get("tokens") is None:
        return (), (), ()
    tokens = tuple(token_text(str(token)) for token in _field(found, "tokens", list))
    values = tuple(_number(value) for value in _field(found, "token_logprobs", list))
    if len(values) != len(tokens):
        raise BodyError(f"expected {len(tokens)} log-probabilities, got {len(values)}")
    tables = tuple(_table(table) for table in found.get("top_logprobs") or ())
    return tokens, values, tables


def _table(table: object) -> Table:
    """Read one place's table of the completions format."""
    if table is None:
        return ()
    if not isinstance(table, dict):
        raise BodyError(f"expected a table of log-probabilities, got {type(table).__name__}")
    rows = [(token_text(token), _number(value)) for token, value in table.items()]
    return tuple((token, value) for token, value in rows if value is not None)


def _listed(entry: Mapping[str, object]) -> Table:
    """Read one place's table of the chat format."""
    found = entry.get("top_logprobs") or ()
    if not isinstance(found, list):
        raise BodyError(f"expected a list of likeliest tokens, got {type(found).__name__}")
    rows = [_field({"entry": row}, "entry", dict) for row in found]
    pairs = [(_named(row), _number(row.get("logprob"))) for row in rows]
    return tuple((token, value) for token, value in pairs if value is not None)


def _named(entry: Mapping[str, object]) -> str:
    return token_text(_field(entry, "token", str), entry.get("bytes"))


def _number(value: object) -> float | None:
    """Check a log-probability; None stays None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise BodyError(f"expected a log-probability, got {value!r}")
    if value > SLACK:
        raise BodyError(f"expected a log-probability of at most 0, got {value!r}")
    return -math.inf if value < NEVER else min(float(value), 0.0)


def _count(usage: Mapping[str, object], name: str) -> int:
    value = usage.get(name, 0 if name == "completion_tokens" else None)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BodyError(f"expected usage.{name} to be a number of tokens, got {value!r}")
    return value


def _field(record: Any, name: str, kind: type[Kind]) -> Kind:
    """Return a field of a JSON object after checking both."""
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        raise BodyError(f"expected {name!r} to be {kind.__name__}, got {str(value)[:60]!r}")
    return value
