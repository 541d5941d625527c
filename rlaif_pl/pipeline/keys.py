"""Keys of a mapping read from YAML, with errors that say where, what was expected and what came."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar, cast

from rlaif_pl.pipeline.yaml_files import Value, whole_number

T = TypeVar("T", str, int, list, dict)  # type: ignore[type-arg]


def take(row: Mapping[str, Value], key: str, kind: type[T], default: T | None, where: str) -> T:
    """Return a key's value, or the default (None: it is required), or refuse another type."""
    value = row.get(key)
    if value is None:
        value = cast(Value, default)
    number = whole_number(value) if kind is int else None
    value = value if number is None else number
    if value is None:
        raise ValueError(f"{where}: expected the key {key!r} (a {kind.__name__}), got none")
    if not isinstance(value, kind) or isinstance(value, bool) and kind is int:
        raise ValueError(f"{where}: expected {key} to be of type {kind.__name__}, got {value!r}")
    return value


def take_names(
    row: Mapping[str, Value], key: str, default: list[str], where: str
) -> tuple[str, ...]:
    """Return a key's list of strings; see ``take``."""
    values = take(row, key, list, default, where)
    if any(not isinstance(value, str) for value in values):
        raise ValueError(f"{where}: expected {key} to be a list of names, got {values!r}")
    return tuple(cast("list[str]", values))


def refuse_unknown(row: Mapping[str, Value], known: tuple[str, ...], where: str) -> None:
    """Refuse keys that are not known, with the nearest that is."""
    for key in row:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}{closest(str(key), known)}")


def closest(word: str, known: Iterable[str]) -> str:
    """Say what was probably meant, and what is possible."""
    options = list(known)
    near = difflib.get_close_matches(word, options, 1)
    return (f"; did you mean {near[0]!r}?" if near else ";") + f" known are {', '.join(options)}"
