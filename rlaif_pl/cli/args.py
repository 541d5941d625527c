"""Words of a command line as the parser wants them: lists in one, a leading tilde written out."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path

from jsonargparse import Namespace


def expand_home(words: Namespace) -> None:
    """Write out a leading ``~/`` of every value, which a shell leaves in ``--out=~/runs`` and a config.

    Some parts would take it for the home folder and others for a folder of that name.
    """
    for key, value in list(words.items()):
        if isinstance(value, str | Path) and str(value).startswith("~/"):
            words[key] = type(value)(os.path.expanduser(value))


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
