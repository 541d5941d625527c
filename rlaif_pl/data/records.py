"""Our records to and from plain JSON objects, with every field checked by its annotation."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import decimal
import hashlib
import json
import logging
import math
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from rlaif_pl.data.files import RawRow
from rlaif_pl.text import shown, whole_characters
from rlaif_pl.types import Preference, Prompt, Row

PROMPT_FIELDS = {"text", "group", "reference", "messages"}
_hints = cache(get_type_hints)  # of a dataclass: they take longer to look up than a row to read
logger = logging.getLogger(__name__)


def group_of(text: str) -> str:
    """Return the group of a prompt that has no identity of its own: a hash of its stripped text."""
    return hashlib.blake2b(text.strip().encode(), digest_size=8).hexdigest()


def is_gap(value: object) -> bool:
    """Tell whether a cell is how tables with numbers hold an absent one: NaN."""
    return isinstance(value, float) and math.isnan(value)


def group_text(group: str | float) -> str:
    """Return a group that may be a number as text; 7 and 7.0 are the same group."""
    return str(int(group)) if isinstance(group, float) and group.is_integer() else str(group)


def decode_all(kind: type[Row], rows: Iterable[RawRow]) -> Iterator[tuple[str, Row]]:
    """Yield ``(where, record)`` for rows in our own schema; unknown fields are warned of once.

    Other fields of a prompt are its columns. Rows without ``provenance`` are of somebody's table, with
    gaps and numbers as groups. ValueError names file, line and field.
    """
    text_field = "prompt" if kind is Preference else "text"
    warned: set[str] = set()
    for where, fields in rows:
        columns: dict[str, Any] = {}
        if kind is Prompt:
            columns = columns_in(fields, PROMPT_FIELDS)
            if isinstance(columns.get("columns"), dict):  # of a prompt that was written
                columns |= columns.pop("columns")
            fields = {name: value for name, value in fields.items() if name != "columns"}
        if "provenance" not in fields:
            fields = {key: value for key, value in fields.items() if not is_gap(value)}
            group = fields.get("group")
            if isinstance(group, int | float) and not isinstance(group, bool):
                fields["group"] = group_text(group)
        text = fields.get(text_field)
        if fields.get("group") is None and isinstance(text, str):
            fields = {**fields, "group": group_of(text)}
        record = decode_fields(kind, fields, where, "", None if kind is Prompt else warned)
        if columns:
            record = dataclasses.replace(record, columns=columns)
        yield where, check(record, where)
    if warned:
        logger.warning("ignored unknown fields: %s", ", ".join(sorted(warned)))


def columns_in(fields: Mapping[str, object], others: Collection[str]) -> dict[str, Any]:
    """Return a row's columns but ``others`` as JSON holds them: gaps as null, dates as text."""
    found = {}
    for name in (name for name in fields if isinstance(name, str) and name not in others):
        with contextlib.suppress(TypeError, ValueError, RecursionError):  # images, and the like
            text = json.dumps(fields[name], default=_plain)
            found[name] = whole_characters(json.loads(text, parse_constant=lambda _: None))
    return found


def _plain(value: Any) -> object:
    """Return what stands in JSON for arrays and dates; TypeError for what nothing stands for."""
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta | decimal.Decimal):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(type(value).__name__)


def check(record: Row, where: str) -> Row:
    """Return it; refuse empty text, ``p_first`` outside [0, 1] and a weight below 0 or infinite."""
    is_pair = isinstance(record, Preference)
    for name in ("prompt", "first", "second", "group") if is_pair else ("text", "group"):
        if not getattr(record, name).strip():
            raise _complaint(where, name, "some text", getattr(record, name))
    if isinstance(record, Preference):
        p, weight = record.p_first, record.weight
        if p is not None and not 0.0 <= p <= 1.0:  # also refuses NaN
            raise _complaint(where, "p_first", "a probability in [0, 1], or null if unlabeled", p)
        if not (math.isfinite(weight) and weight >= 0.0):
            raise _complaint(where, "weight", "a finite number, at least 0", weight)
    elif record.reference is not None and not record.reference.strip():
        raise _complaint(where, "reference", "some text, or null", record.reference)
    return record


def encode(record: Preference | Prompt) -> str:
    """Return a record as one line of JSON; measurements that are not finite become null."""
    fields = record_fields(record)
    if isinstance(record, Preference):
        fields["provenance"] = finite(fields["provenance"])
    return json.dumps(fields, ensure_ascii=False, allow_nan=False)


def record_fields(record: Preference | Prompt) -> dict[str, Any]:
    """Return a record as a JSON object; one that is no conversation has no ``messages``."""
    fields = dataclasses.asdict(record)
    messages = fields.pop("messages")
    return fields if messages is None else fields | {"messages": list(messages)}


def finite(fields: Mapping[str, object]) -> dict[str, object]:
    """Return fields with null in place of numbers that are not finite."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in fields.items()
    }


def decode_fields(
    kind: type[Any],
    fields: dict[str, object],
    where: str,
    prefix: str = "",
    unknown: set[str] | None = None,
) -> Any:
    """Build a dataclass from a JSON object, checking each value; ``unknown`` gathers further names."""
    unknown = set() if unknown is None else unknown
    hints = _hints(kind)  # type: ignore[arg-type]  # mypy does not count type[Any] as hashable
    unknown.update(prefix + name for name in fields if name not in hints)
    values = {}
    for field in dataclasses.fields(kind):
        name = prefix + field.name
        if field.name in fields:
            value, hint = fields[field.name], hints[field.name]
            if dataclasses.is_dataclass(hint):
                if not isinstance(value, dict):
                    raise _complaint(where, name, "an object", value)
                values[field.name] = decode_fields(hint, value, where, f"{name}.", unknown)  # type: ignore[arg-type]
            else:
                values[field.name] = _matched(value, hint, where, name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(
                f"{where}: expected the field {name!r}, got only {', '.join(sorted(fields))}; "
                "add it, or map your columns with `columns`"
            )
    return kind(**values)


def _matched(value: object, hint: Any, where: str, name: str) -> object:
    """Return the value if its type is the annotated one (an int may stand for a float)."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for option in options:
        kind = get_origin(option)
        if kind is Literal and value in get_args(option):
            return value
        if kind is tuple and isinstance(value, list | tuple):  # of messages
            if all(isinstance(each, dict) for each in value):
                message = get_args(option)[0]
                return tuple(decode_fields(message, each, where, f"{name}.") for each in value)
        elif kind is None and (option is bool or not isinstance(value, bool)):
            if isinstance(value, option):
                return value
            if option is float and isinstance(value, int):
                return float(value)
    raise _complaint(where, name, " or ".join(_named(option) for option in options), value)


def _named(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(repr(choice) for choice in get_args(hint))
    names = {str: "text", float: "a number", int: "a whole number", bool: "true or false"}
    return "a list of messages" if get_origin(hint) is tuple else names.get(hint, "null")


def _complaint(where: str, name: str, expected: str, got: object) -> ValueError:
    return ValueError(
        f"{where}: expected {name!r} to be {expected}, got {shown(got)}; fix or remove the row"
    )
