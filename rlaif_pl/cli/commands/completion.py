"""``completion SHELL``: a script with which a shell completes commands and options (by shtab)."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Mapping, Sequence

import shtab
from jsonargparse import ArgumentParser

from rlaif_pl.cli.commands.config_check import lightning_parser
from rlaif_pl.cli.commands.parsers import function_parser

PROG = "rlaif-pl"  # the installed script; `python -m rlaif_pl` is a call of python to a shell
FILES = re.compile(r"\b(str|DataSource|Path)\b")


def completion(
    shell: str, functions: Mapping[str, tuple[str, str]], run: argparse.ArgumentParser
) -> int:
    """Print a completion script.

    Raises:
        ValueError: shtab does not know the shell.
    """
    if shell not in shtab.SUPPORTED_SHELLS:
        known = ", ".join(shtab.SUPPORTED_SHELLS)
        raise ValueError(f"expected a shell among {known}, got {shell!r}; take one of them")
    sys.stdout.write(shtab.complete(_whole(functions, run), shell) + "\n")
    return 0


def _whole(
    functions: Mapping[str, tuple[str, str]], run: argparse.ArgumentParser
) -> argparse.ArgumentParser:
    """Return one plain parser with every command, its options and their choices."""
    top = argparse.ArgumentParser(PROG)
    commands = top.add_subparsers()
    groups: dict[str, argparse._SubParsersAction[argparse.ArgumentParser]] = {}
    _copy(run._actions, commands.add_parser("run", help="run"))
    training = lightning_parser()._actions
    for command in ("fit", "validate", "predict"):
        made = commands.add_parser(command, help=command)
        _copy(training, made)
        made.add_argument("--config").complete = shtab.FILE  # type: ignore[attr-defined]
        made.add_argument("--ckpt_path").complete = shtab.FILE  # type: ignore[attr-defined]
    commands.add_parser("completion", help="completion").add_argument(
        "shell", choices=shtab.SUPPORTED_SHELLS
    )
    for command, (module, name) in functions.items():
        group, _, last = command.rpartition(" ")
        if group and group not in groups:
            groups[group] = commands.add_parser(group, help=group).add_subparsers()
        place = groups[group] if group else commands
        parser: ArgumentParser = function_parser(
            getattr(importlib.import_module(module), name), f"{PROG} {command}"
        )
        _copy(parser._actions, place.add_parser(last, help=last))
    return top


def _copy(actions: Sequence[argparse.Action], parser: argparse.ArgumentParser) -> None:
    """Give a plain parser the options of another, with choices and a sign where files are taken."""
    for action in actions:
        names = [name for name in action.option_strings if name not in ("-h", "--help")]
        if action.option_strings and not names:
            continue
        kind = str(getattr(action, "_typehint", None) or action.type)
        is_flag = action.nargs == 0 or any(name.endswith(".help") for name in names)
        if is_flag:
            parser.add_argument(*names, action="store_true")
            continue
        added = parser.add_argument(*(names or [action.dest]), choices=_choices(kind))
        if added.choices is None and (names[:1] == ["--config"] or FILES.search(kind)):
            added.complete = shtab.FILE  # type: ignore[attr-defined]


def _choices(kind: str) -> list[str] | None:
    """Return the values that a type names; None where it names none."""
    if literal := re.search(r"Literal\[([^\]]+)\]", kind):
        return [part.strip(" '\"") for part in literal[1].split(",")]
    return ["true", "false"] if "bool" in kind and "int" not in kind else None
