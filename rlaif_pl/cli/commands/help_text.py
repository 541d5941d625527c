"""Help of a command: what is required, then the options by group, each in few lines. Without torch."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from typing_extensions import override

COLUMN = 28  # where descriptions begin
WIDEST = 100
LONGEST = 300  # of a description; more is cut to its first sentence
OFTEN = ("accelerator", "devices", "strategy", "precision", "max_steps", "max_epochs", "callbacks")
GENERAL = ("config", "print_config", "help")
BOOL = "true|false"
SHOWN_AS = {
    "DataSource": "DATA",
    "Labeler": "LABELER",
    "Backend": "BACKEND",
    "Reward": "REWARD",
    "list[": "LIST",
    "dict[": "MAPPING",
    "int": "INT",
    "bool": BOOL,
    "whole": "INT",
    "float": "FLOAT",
}  # the kind of value by what its type has in it; the first counts


class GroupHelp(argparse.Action):
    """``--GROUP.help``: every key of a group of options, with types and defaults."""

    def __init__(self, option_strings: Sequence[str], **_: Any) -> None:
        hidden = argparse.SUPPRESS
        super().__init__(option_strings, hidden, 0, default=hidden, help=hidden)

    @override
    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> NoReturn:
        name = self.option_strings[0].removeprefix("--").removesuffix(".help")
        sys.stdout.write("\n".join([f"keys of {name}:", *_rows(_group(parser, name)), ""]))
        sys.exit(0)


def add_group_helps(parser: argparse.ArgumentParser) -> None:
    """Add ``--GROUP.help`` for every group of nested options that a parser has."""
    names = {action.dest.partition(".")[0] for action in parser._actions if "." in action.dest}
    for name in sorted(names):
        if f"--{name}.help" not in parser._option_string_actions:
            parser.add_argument(f"--{name}.help", action=GroupHelp, help=argparse.SUPPRESS)


def help_text(parser: argparse.ArgumentParser) -> str:
    """Return a command's help: usage, what it does, required options, the others, groups in a line."""
    listed = [action for action in parser._actions if _is_listed(action)]
    if getattr(parser, "_inner_parser", False):  # `--OPTION.help CLASS`
        return "\n".join([f"{parser.description}:", *_rows(listed), ""])
    single = [action for action in listed if "." not in action.dest]
    required = [action for action in single if action.required]
    others = [action for action in single if not action.required]
    names = dict.fromkeys(a.dest.partition(".")[0] for a in listed if "." in a.dest)
    groups = [row for name in names for row in _group_rows(parser, name)]
    usage = ["usage:", parser.prog.replace(" [options]", ""), *map(_invocation, required)]
    parts = [
        textwrap.fill(" ".join([*usage, "[options]"]), _width(), subsequent_indent="       "),
        "\n".join(textwrap.wrap(_clean(parser.description or ""), _width())),
    ]
    for title, rows in (
        ("required", _rows(required)),
        ("options", _rows(others)),
        ("groups of options (--GROUP.help says more of each)", groups),
    ):
        if rows:
            parts.append("\n".join([f"{title}:", *rows]))
    parts.append(_general(parser))
    return "\n\n".join(filter(None, parts)) + "\n"


def _general(parser: argparse.ArgumentParser) -> str:
    """Return the line about what every command has."""
    if "--config" not in parser._option_string_actions:
        return ""
    classes = [a for a in parser._actions if a.dest.endswith(".help") and "CLASS" in str(a.metavar)]
    names = [str(action.option_strings[0]) for action in classes if action.dest.count(".") == 1]
    more = f"; {' '.join(names)} CLASS: arguments of a class" if names else ""
    text = (
        f"also: --config FILE.yaml: a file with these options; --print_config: show them all{more}"
    )
    return textwrap.fill(text, _width(), subsequent_indent="      ", break_on_hyphens=False)


def _is_listed(action: argparse.Action) -> bool:
    """Whether an action is an option of its own."""
    if action.dest in GENERAL or action.help == argparse.SUPPRESS:
        return False
    return not action.dest.endswith(".help") and type(action).__name__ != "_ActionConfigLoad"


def _group(parser: argparse.ArgumentParser, name: str) -> list[argparse.Action]:
    return [a for a in parser._actions if a.dest.startswith(f"{name}.") and _is_listed(a)]


def _group_rows(parser: argparse.ArgumentParser, name: str) -> list[str]:
    """Return the lines of a group: what it is, and its keys."""
    actions = _group(parser, name)
    keys = [action.dest.removeprefix(f"{name}.") for action in actions]
    title = next((g.title for g in parser._action_groups if actions[0] in g._group_actions), "")
    if len(keys) > 3 * len(OFTEN):  # Lightning's trainer
        keys = [key for key in OFTEN if key in keys] + ["..."]
    return _row(f"--{name}.KEY", f"{_clean(title or '').rstrip(':.')}: {', '.join(keys)}")


def _rows(actions: Iterable[argparse.Action]) -> list[str]:
    rows: list[str] = []
    for action in actions:
        text, default = _clean(action.help or ""), action.default
        if len(text) > LONGEST:  # of Lightning
            text = text[: text.index(". ") + 1] if ". " in text else text
        is_shown = default not in (None, argparse.SUPPRESS, False, (), "") and not action.required
        if is_shown and not isinstance(default, dict | list) and "default" not in text.lower():
            text = f"{text} [{str(default).lower() if isinstance(default, bool) else default}]"
        rows += _row(_invocation(action), text)
    return rows


def _row(left: str, text: str) -> list[str]:
    """Return a line with its description beside it, or below where it is long."""
    lines = textwrap.wrap(text, _width() - COLUMN, break_on_hyphens=False) or [""]
    first = f"  {left}"
    if len(left) <= COLUMN - 4:
        first = (first.ljust(COLUMN) + lines.pop(0)).rstrip()
    return [first, *(" " * COLUMN + line for line in lines)]


def _invocation(action: argparse.Action) -> str:
    names = action.option_strings
    if not names:
        return str(action.metavar or action.dest).upper()
    option = next((name for name in names if name.startswith("--")), names[0])
    return option if action.nargs == 0 else f"{option} {_metavar(action)}"


def _metavar(action: argparse.Action) -> str:
    """Return the kind of value that an option takes, in a word."""
    hint = getattr(action, "_typehint", None) or action.type
    name = str(getattr(hint, "__name__", hint) if isinstance(hint, type) else hint)
    if choices := literals(name):
        return "|".join(choices)
    for sign, shown in SHOWN_AS.items():
        if sign in name:
            return shown
    if "CLASS_PATH" in str(action.metavar):
        return "CLASS"
    return str(action.metavar) if isinstance(action.metavar, str) else action.dest.upper()


def literals(kind: str) -> list[str]:
    """Return the values that the name of a type lists."""
    found = re.search(r"Literal\[([^\]]+)\]", kind)
    return [part.strip(" '\"") for part in found[1].split(",")] if found else []


def _clean(text: str) -> str:
    """Return a docstring's text without its markup and line breaks."""
    return " ".join(text.replace("``", "").split())


def _width() -> int:
    return min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)
