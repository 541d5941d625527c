"""One sentence in place of a page of usage where an option or a value is wrong. Without torch."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NoReturn

from rlaif_pl.errors import explained

UNKNOWN = "unrecognized arguments: "
NESTED = re.compile(r"Problem with given class_path '([^']+)':\s+Option '([^']+)' is not accepted")
SHOWN = 3  # nearest options


class OneSentence:
    """Mixin of parsers: an error names the nearest options, and where all of them are listed."""

    prog: str
    exit_on_error: bool = True

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and exit with 2; or raise, where the parser is asked to."""
        if not self.exit_on_error:
            super().error(message, ex)  # type: ignore[misc]
        parser: Any = getattr(ex, "subcommand_parser", None) or self
        sys.stderr.write(f"error: {refusal(parser, message)}\n")
        sys.exit(2)


class PlainParser(OneSentence, argparse.ArgumentParser):
    """The parser of commands that need no more than argparse."""


def refusal(parser: argparse.ArgumentParser, message: str) -> str:
    """Return what is wrong with a command line, with the nearest known options.

    Args:
        parser: Of the command.
        message: Of the parser.
    """
    help_line = f"{parser.prog.replace(' [options]', '')} --help lists all"
    if message.startswith(UNKNOWN):
        words = message.removeprefix(UNKNOWN).split()
        given = [word.split("=")[0] for word in words if word.startswith("-")]
        if not given:
            return f"expected options after {parser.prog}, got {' '.join(words)!r}; {help_line}"
        known = [name for action in parser._actions for name in action.option_strings]
        told = "; ".join(f"unknown option {name}{meant(name, known)}" for name in given)
        return f"{told}; {help_line}"
    nested = NESTED.search(message)
    if nested:
        return f"unknown option {_nested(nested[1], nested[2])}; {help_line}"
    lines = [line.strip() for line in message.splitlines()]
    shown = explained(ValueError("\n".join(lines[1:]))) if lines[1:] else ""
    return f"{' '.join(filter(None, [lines[0], shown]))}; {help_line}"


def meant(name: str, known: Iterable[str]) -> str:
    """Ask whether one of the nearest names was meant; nothing where none is near."""
    near = get_close_matches(name, list(known), SHOWN)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _nested(class_path: str, option: str) -> str:
    """Name an option that a class lacks, with the nearest that it has."""
    module, _, name = class_path.rpartition(".")
    known = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    near = meant(option, known)
    listed = near or f" (it has {', '.join(known)})"
    return f"{option} of {name}{listed}"
