r"""Values of options as they were meant: texts as typed, ``1e3``, functions by their path. No torch.

jsonargparse (4.53) reads every word as YAML before it knows what the option takes (a mapping, of
``--reward.template.prompt $'POST: {prompt}\nTL;DR:'``), refuses ``1e3`` for an int, or hands on
``1000.0``, and calls any function that ``class_path`` names. It has no hook where it looks at a value:
its function is replaced.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml  # type: ignore[import-untyped]
from jsonargparse import Namespace, _typehints
from jsonargparse._util import NestedArg, import_object

from rlaif_pl.pipeline.yaml_files import whole_number

LINE_BREAK = re.compile(r"(?<!\\)\n")  # behind a backslash YAML joins the lines
WHOLE = re.compile(r"[+-]?[0-9]+")
_adapt = _typehints.adapt_typehints


def adapt(value: Any, hint: Any, *args: Any, **options: Any) -> Any:
    """Check a value as jsonargparse does, of a text what was typed and not what YAML makes of it.

    One text stands for a list of one, where texts are listed (``stop``). A key adds to a data set or a
    labeler that was given by its name alone (see ``named``). ``chat`` is the name of a template.
    """
    typed, before = options.get("orig_val"), options.get("prev_val")
    if value == "chat" and _path(hint) == "rlaif_pl.text.Template":
        value = {"chat": True}
    if isinstance(value, NestedArg):
        if isinstance(before, str):
            options["prev_val"] = named(before, hint)
        is_same = isinstance(typed, NestedArg) and typed.key == value.key
        value = typed if is_same and _reads_texts(hint, value.key) else value
    elif get_args(hint) == (str, ...) and isinstance(typed, str):
        is_null = value is None and typed.strip() in ("null", "~", "")
        value = value if is_null or isinstance(value, list | tuple) else [typed]
    return _adapt(*_as_number(by_path(value, hint), hint), *args, **options)


def named(name: str, hint: Any) -> Any:
    """Return what a data set's or a labeler's name stands for; other texts as they are.

    So ``--pairs rows.jsonl --pairs.limit 5`` and ``--labeler pairwise --labeler.backend MODEL`` work,
    also where the name stands in a config or is the default: jsonargparse would replace it by the key.
    """
    if _path(hint) == "rlaif_pl.data.sources.source.DataSource":
        return Namespace(name=name)
    if _path(hint) != "rlaif_pl.types.Labeler":
        return name
    labelers = importlib.import_module("rlaif_pl.labeling.registry").LABELERS  # it loads torch
    known = ({each.__name__: each for each in labelers.values()} | labelers).get(name)
    return name if known is None else Namespace(class_path=f"rlaif_pl.labeling.{known.__name__}")


def _path(hint: Any) -> str:
    return f"{getattr(hint, '__module__', '')}.{getattr(hint, '__name__', '')}"


def _reads_texts(hint: Any, key: str) -> bool:
    """Whether a key below an option goes to a class, whose parser reads what is typed, or is a text."""
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType) or not inspect.isclass(kind):
        return kind is Callable
    if issubclass(kind, Mapping):
        return "." in key or get_args(hint)[1:] == (str,)
    return not issubclass(kind, list | tuple)


def _as_number(value: Any, hint: Any) -> tuple[Any, Any]:
    """Return a value and its type, as numbers where the type takes whole ones.

    Where it takes floats, too (``limit_val_batches``: 1 is one batch and 1.0 all of them), only numbers
    beyond 1 are turned, and what is written without a point stays whole. The order of such a union says
    nothing: Python keeps one of two equal ones, whichever came first.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if int not in kinds or (isinstance(value, str) and str in kinds):
        return value, hint
    if float in kinds and WHOLE.fullmatch(str(value)):
        return int(value), int
    number = whole_number(value)
    if number is None:
        return value, hint
    if float not in kinds:
        return number, hint
    return (number, int) if abs(number) > 1 else (float(number), float)


def by_path(value: Any, hint: Any) -> Any:
    """Return how a parser takes the function that a value names; other values as they are.

    Of a reward's function a reward is made, and one of a list of rewards.

    Raises:
        ValueError: A function that is wanted itself is given arguments.
    """
    is_reward = _path(hint) == "rlaif_pl.types.Reward"
    if not is_reward and get_origin(hint) is not Callable:
        return value
    if is_reward and isinstance(value, list):
        several = Namespace(rewards=value)
        return Namespace(class_path="rlaif_pl.rl.WeightedRewards", init_args=several)
    path, arguments = value, None
    if isinstance(value, NestedArg) and value.key == "class_path":  # of a command line
        path = value.val
    if isinstance(value, Namespace | Mapping):
        path, arguments = value.get("class_path"), value.get("init_args")
    function = function_at(path)
    if function is None:
        return value
    if is_reward:
        if arguments or _makes_reward(function):
            return value
        kind = "rlaif_pl.rl.function_reward.FunctionReward"
        return Namespace(class_path=kind, init_args=Namespace(function=path))
    if path is value or not _misses(function, arguments or {}):
        return value
    if arguments:
        raise ValueError(f"Expected '{path}' to be a subclass of {get_args(hint)[-1]}")
    return path


def function_at(path: Any) -> Callable[..., Any] | None:
    """Return the function at a path; None where there is none, or something else."""
    if not isinstance(path, str):
        return None
    try:
        found = import_object(path)
    except (ImportError, AttributeError, ValueError):
        return None  # the parser says what is wrong with it
    is_function = callable(found) and not isinstance(found, type) and not hasattr(found, "score")
    return found if is_function else None


def _makes_reward(function: Callable[..., Any]) -> bool:
    """Whether a function declares that it returns a reward, so that its path is that of a factory."""
    try:
        return hasattr(get_type_hints(function).get("return"), "score")
    except (NameError, TypeError):
        return False


def _misses(function: Callable[..., Any], arguments: Namespace | Mapping[str, Any]) -> bool:
    """Whether a function cannot be called with these arguments alone."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return False
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
    return any(name not in arguments for name in required)


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


_typehints.adapt_typehints = adapt  # type: ignore[assignment]  # the original names options
