"""YAML as jsonargparse reads it (``1e-4`` is a number), with repeated keys refused.

Whole numbers may be written with an exponent, too: ``1e3`` is 1000.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

import yaml  # type: ignore[import-untyped]

from rlaif_pl.text import whole_characters

Value: TypeAlias = "None | bool | int | float | str | list[Value] | dict[str, Value]"
FLOAT = re.compile(
    r"^[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.[\d_]+(?:[eE][-+]?\d+)?"
    r"|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
)
EXPONENT = re.compile(r"[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d{1,2}")


def whole_number(value: object) -> int | None:
    """Return the whole number that a float, or text with an exponent, stands for; None for others."""
    if isinstance(value, str) and EXPONENT.fullmatch(value):
        exact = Decimal(value.replace("_", ""))
        return int(exact) if exact == exact.to_integral_value() else None
    return int(value) if isinstance(value, float) and value.is_integer() else None


class RepeatedKeyError(ValueError):
    """A mapping gives a key twice."""


class Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Safe loader with YAML 1.2 floats that refuses a key given twice."""

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """Read a number; beyond 1, whole ones with an exponent are ints (1.0 may be a share)."""
        number = whole_number(node.value)
        if number is not None and abs(number) > 1:
            return number
        return float(super().construct_yaml_float(node))

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        """Read text, with halves of characters mended."""
        return str(whole_characters(super().construct_yaml_str(node)))

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        """Build a mapping, as the base class does, after looking for repeated keys."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise RepeatedKeyError(
                    f"{node.start_mark.name}, line {key.start_mark.line + 1}: the key "
                    f"{key.value!r} is given twice in one mapping; keep one of the two"
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Safe dumper that quotes the strings our loader would read as numbers."""


Loader.add_constructor("tag:yaml.org,2002:float", Loader.construct_yaml_float)
Loader.add_constructor("tag:yaml.org,2002:str", Loader.construct_yaml_str)
for _class in (Loader, Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))


def read_yaml(path: Path) -> dict[str, Value]:
    """Read a mapping; an empty file is one, anything else or a repeated key a ValueError."""
    if not path.is_file():
        raise ValueError(f"expected a YAML file, there is none at {path}; check the name")
    with path.open("rb") as stream:  # YAML tells UTF-16 from UTF-8 by the byte order mark
        try:
            content = yaml.load(stream, Loader)  # noqa: S506 (a subclass of the safe loader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or any(not isinstance(key, str) for key in content):
        raise ValueError(
            f"expected {path} to hold a mapping with string keys, got {type(content).__name__}"
        )
    return content


def dump_yaml(content: dict[str, Value]) -> str:
    """Write a mapping as YAML with its keys in the order given."""
    return str(yaml.dump(content, Dumper=Dumper, sort_keys=False, allow_unicode=True))


def overlay(content: dict[str, Value], key: str, value: Value) -> None:
    """Set a dotted key in nested mappings, in place; a number picks an item of a list.

    ``+`` at the end of the key adds the value to a list, made if need be (``trainer.callbacks.+``).
    ValueError for a way through something else, or past the end of a list.
    """
    *parents, last = key.split(".")
    node: Any = content
    for depth, part in enumerate(parents):
        if isinstance(node, dict) and node.get(part) is None:
            node[part] = [] if last == "+" and depth == len(parents) - 1 else {}
        node = node[_place(node, part, key, ".".join(parents[:depth]))]
    if isinstance(node, list) and last == "+":
        node.append(value)
    else:
        node[_place(node, last, key, ".".join(parents))] = value


def _place(node: Value, part: str, key: str, above: str) -> str | int:
    if isinstance(node, dict):
        return part
    if not isinstance(node, list):
        raise ValueError(
            f"set: {key}: cannot go below {above!r}, which is the value {node!r}; "
            "give that key a mapping or drop the rest of the dotted key"
        )
    if part.isdigit() and int(part) < len(node):
        return int(part)
    raise ValueError(
        f"set: {key}: {above or 'the file'} is a list of {len(node)}, so expected a number "
        f"below that in place of {part!r}"
    )


def flatten(content: Value, prefix: str = "") -> dict[str, Value]:
    """Return the leaves of nested mappings and lists under dotted keys."""
    if not isinstance(content, dict | list) or not content:
        return {prefix: content}
    leaves: dict[str, Value] = {}
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        leaves |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def at(content: Value, key: str) -> Value:
    """Return what stands at a dotted key; None where there is nothing."""
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def number_at(content: Value, key: str, default: float) -> float:
    """Return the number that stands at a dotted key."""
    value = at(content, key)
    return float(value) if isinstance(value, int | float) else default
