"""Words of a command line as the parser wants them: lists in one, further keys on what has a name."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path

from jsonargparse import Namespace

from rlaif_pl.cli.commands.usage import config_files
from rlaif_pl.labeling.registry import LABELERS
from rlaif_pl.pipeline.yaml_files import read_yaml

BY_NAME = {
    word: f"rlaif_pl.labeling.{kind.__name__}"
    for name, kind in LABELERS.items()
    for word in (name, kind.__name__)
}


def expand_home(words: Namespace) -> None:
    """Write out a leading ``~/`` of every value, which a shell leaves in ``--out=~/runs`` and a config.

    Some parts would take it for the home folder and others for a folder of that name.
    """
    for key, value in list(words.items()):
        if isinstance(value, str | Path) and str(value).startswith("~/"):
            words[key] = type(value)(os.path.expanduser(value))


def prepared(function: Callable[..., int], args: list[str]) -> list[str]:
    """Return a command's words for its parser; see ``gather_lists`` and ``name_parts``."""
    return name_parts(function, gather_lists(function, args))


def gather_lists(function: Callable[..., int], args: list[str]) -> list[str]:
    """Turn ``--confidence 1 2 8`` into ``--confidence [1,2,8]`` for lists; a data set has one, too."""
    hints = {name: str(p.annotation) for name, p in inspect.signature(function).parameters.items()}
    lists = {f"--{name}" for name, hint in hints.items() if hint.startswith("list[")}
    texts = {f"--{name}" for name, hint in hints.items() if hint.startswith("list[str]")}
    lists |= {f"--{name}.confidence" for name, hint in hints.items() if "DataSource" in hint}
    result: list[str] = []
    index = 0
    while index < len(args):
        word = args[index]
        result.append(word)
        index += 1
        if word not in lists:
            continue
        values = []
        while index < len(args) and not args[index].startswith("--"):
            values.append(args[index])
            index += 1
        single = len(values) == 1 and values[0].startswith("[")
        listed = json.dumps(values) if word in texts else f"[{','.join(values)}]"
        result.append(values[0] if single else listed)
    return result


def name_parts(function: Callable[..., int], args: list[str]) -> list[str]:
    """Let further keys add to a data set or a labeler that is given by its name alone.

    So ``--pairs rows.jsonl --pairs.limit 5`` and ``--labeler pairwise --labeler.backend MODEL`` work,
    also where the name stands in a config or is the default. The parser takes a bare name for the
    whole value, which the key would then replace.
    """
    result = list(args)
    for name, parameter in inspect.signature(function).parameters.items():
        hint = str(parameter.annotation)
        keys = {word.split("=")[0] for word in args if word.startswith(f"--{name}.")}
        is_named = keys & {f"--{name}.name", f"--{name}.class_path"}
        if is_named or not keys - {f"--{name}.help"} or hint.startswith("dict"):
            continue
        kept, value = _taken(result, name)
        given = _in_configs(args, name, parameter.default) if value is None else value
        if not isinstance(given, str) or given.startswith("{"):
            continue
        if "DataSource" in hint:
            result = _before_keys(kept, name, [f"--{name}.name", given])
        elif "Labeler" in hint and given in BY_NAME:
            result = _before_keys(kept, name, [f"--{name}", BY_NAME[given]])
    return result


def _taken(args: list[str], name: str) -> tuple[list[str], str | None]:
    """Return the words without an option and its value, and the last value that it had."""
    kept: list[str] = []
    value: str | None = None
    words = iter(args)
    for word in words:
        option, is_joined, joined = word.partition("=")
        if option != f"--{name}":
            kept.append(word)
        else:
            value = joined if is_joined else next(words, None)
    return kept, value


def _before_keys(args: list[str], name: str, words: list[str]) -> list[str]:
    """Put words in front of the first further key of an option."""
    first = next(n for n, word in enumerate(args) if word.startswith(f"--{name}."))
    return [*args[:first], *words, *args[first:]]


def _in_configs(args: list[str], name: str, default: object) -> object:
    """Return what the last config among the words says about an option."""
    value = default
    for file in config_files(args):
        value = read_yaml(Path(file)).get(name, value)
    return value
