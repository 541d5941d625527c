"""``completion SHELL``: a script with which a shell completes commands and options (by shtab)."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

import shtab

from rlaif_pl.cli.commands.config_check import lightning_parser
from rlaif_pl.cli.commands.help_text import literals
from rlaif_pl.cli.commands.parsers import function_parser
from rlaif_pl.cli.commands.run import run_parser
from rlaif_pl.cli.registry import FUNCTIONS, LIGHTNING, function_of

PROG = "rlaif-pl"  # the installed script; `python -m rlaif_pl` is a call of python to a shell
FILES = re.compile(r"\b(str|DataSource|Path)\b")


def completion(shell: str) -> int:
    """Print a completion script; ``ValueError``: shtab does not know the shell."""
    if shell not in shtab.SUPPORTED_SHELLS:
        known = ", ".join(shtab.SUPPORTED_SHELLS)
        raise ValueError(f"expected a shell among {known}, got {shell!r}; take one of them")
    sys.stdout.write(shtab.complete(_whole(), shell) + "\n")
    return 0


def _whole() -> argparse.ArgumentParser:
    """Return one plain parser with every command, its options and their choices."""
    top = argparse.ArgumentParser(PROG)
    commands = top.add_subparsers()
    groups: dict[str, argparse._SubParsersAction[argparse.ArgumentParser]] = {}
    _copy(run_parser()._actions, commands.add_parser("run", help="run"))
    training = lightning_parser()._actions
    for command in LIGHTNING:
        made = commands.add_parser(command, help=command)
        _copy(training, made)
        made.add_argument("--config").complete = shtab.FILE  # type: ignore[attr-defined]
        made.add_argument("--ckpt_path").complete = shtab.FILE  # type: ignore[attr-defined]
    made = commands.add_parser("completion", help="completion")
    made.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
    for command in FUNCTIONS:
        group, _, last = command.rpartition(" ")
        if group and group not in groups:
            groups[group] = commands.add_parser(group, help=group).add_subparsers()
        place = groups[group] if group else commands
        actions = function_parser(function_of(command), f"{PROG} {command}")._actions
        _copy(actions, place.add_parser(last, help=last))
    return top


def _copy(actions: Sequence[argparse.Action], parser: argparse.ArgumentParser) -> None:
    """Give a plain parser the options of another, with choices and a sign where files are taken."""
    for action in actions:
        names = [name for name in action.option_strings if name not in ("-h", "--help")]
        if action.option_strings and not names:
            continue
        if action.nargs == 0 or any(name.endswith(".help") for name in names):
            parser.add_argument(*names, action="store_true")
            continue
        kind = str(getattr(action, "_typehint", None) or action.type)
        is_flag = "bool" in kind and "int" not in kind
        choices = literals(kind) or (["true", "false"] if is_flag else None)
        added = parser.add_argument(*(names or [action.dest]), choices=choices)
        if choices is None and (names[:1] == ["--config"] or FILES.search(kind)):
            added.complete = shtab.FILE  # type: ignore[attr-defined]
