r"""Texts of a command line as they were typed, line breaks and all. Without torch.

jsonargparse (4.53) reads every word as YAML before it knows what the option takes. An option of a class
is read twice: of ``--reward.template.prompt $'POST: {prompt}\nTL;DR:'`` it makes a mapping, and
hands its Python form on. It has no hook there: its function is replaced by one that hands on the text
that was typed.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml  # type: ignore[import-untyped]
from jsonargparse import Namespace, _typehints
from jsonargparse._util import NestedArg

from rlaif_pl.cli.commands.named_functions import by_path
from rlaif_pl.cli.commands.whole_numbers import adapt as adapt_number

DATA_SOURCE = ("rlaif_pl.data.sources.source", "DataSource")
TEMPLATE = ("rlaif_pl.text", "Template")
LABELER = ("rlaif_pl.types", "Labeler")
NULL = ("null", "~", "")
LINE_BREAK = re.compile(r"(?<!\\)\n")  # behind a backslash YAML joins the lines


def accept_plain_texts() -> None:
    """Let every parser of this process take texts as they are typed; may be called again."""
    _typehints.adapt_typehints = adapt  # type: ignore[assignment]  # the original names options


def adapt(value: Any, hint: Any, *args: Any, **options: Any) -> Any:
    """Check a value as jsonargparse does, of a text what was typed and not what YAML makes of it.

    One text stands for a list of one, where texts are listed (``stop``). A key adds to a data set or a
    labeler that was given by its name alone (see ``named``). ``chat`` is the name of a template.
    """
    typed, before = options.get("orig_val"), options.get("prev_val")
    if value == "chat" and _names(hint) == TEMPLATE:
        value = {"chat": True}
    if isinstance(value, NestedArg) and isinstance(before, str):
        options["prev_val"] = named(before, hint)
    if isinstance(value, NestedArg):
        if (
            isinstance(typed, NestedArg)
            and typed.key == value.key
            and _reads_texts(hint, value.key)
        ):
            value = typed
    elif get_args(hint) == (str, ...) and isinstance(typed, str):
        is_null = value is None and typed.strip() in NULL
        value = value if is_null or isinstance(value, list | tuple) else [typed]
    return adapt_number(by_path(value, hint), hint, *args, **options)


def named(name: str, hint: Any) -> Any:
    """Return what a data set's or a labeler's name stands for; other texts as they are.

    So ``--pairs rows.jsonl --pairs.limit 5`` and ``--labeler pairwise --labeler.backend MODEL`` work,
    also where the name stands in a config or is the default: jsonargparse takes it for the whole value,
    which the key would replace.
    """
    kind = _names(hint)
    if kind == DATA_SOURCE:
        return Namespace(name=name)
    if kind != LABELER:
        return name
    labelers = importlib.import_module("rlaif_pl.labeling.registry").LABELERS  # it loads torch
    known = ({each.__name__: each for each in labelers.values()} | labelers).get(name)
    return name if known is None else Namespace(class_path=f"rlaif_pl.labeling.{known.__name__}")


def _names(hint: Any) -> tuple[str, str]:
    return getattr(hint, "__module__", ""), getattr(hint, "__name__", "")


def _reads_texts(hint: Any, key: str) -> bool:
    """Whether a key below an option goes to a class, whose parser reads what is typed, or is a text."""
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType) or not inspect.isclass(kind):
        return kind is Callable
    if issubclass(kind, Mapping):
        return "." in key or get_args(hint)[1:] == (str,)
    return not issubclass(kind, list | tuple)


def keep_line_breaks(word: str) -> str:
    """Return a word of a command line whose mapping or list keeps the line breaks of quoted texts.

    YAML folds a line break in quotes into a space; whoever typed one meant it.
    """
    option, joined, value = word.partition("=") if word.startswith("--") else ("", "", word)
    if "\n" not in value or value.lstrip()[:1] not in ("{", "["):
        return word
    try:
        found = [each for each in yaml.scan(value) if isinstance(each, yaml.ScalarToken)]
    except yaml.YAMLError:
        return word  # the parser says what is wrong
    for token in reversed(found):
        begin, end = token.start_mark.index, token.end_mark.index
        inside = value[begin + 1 : end - 1]
        if token.style == "'":
            quoted = json.dumps(inside.replace("''", "'"), ensure_ascii=False)
        elif token.style == '"':
            quoted = '"' + LINE_BREAK.sub(r"\\n", inside) + '"'
        else:
            continue
        value = value[:begin] + quoted + value[end:]
    return option + joined + value
