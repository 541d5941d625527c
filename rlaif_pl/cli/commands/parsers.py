"""Parsers of commands that are functions: their signatures are the options. Without torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import cast

from jsonargparse import ArgumentParser
from jsonargparse._required import restore_suppressed_required

from rlaif_pl.cli.commands.help_text import add_group_helps, help_text
from rlaif_pl.cli.commands.usage import OneSentence


class ShortHelp:
    """Mixin of jsonargparse's parsers: help as ``help_text`` writes it."""

    def format_help(self, *_: object) -> str:
        """Return the help; while words are parsed, jsonargparse hides what is required."""
        with restore_suppressed_required():
            return help_text(cast(ArgumentParser, self))


class FunctionParser(ShortHelp, OneSentence, ArgumentParser):
    """Options of a function."""


def function_parser(
    function: Callable[..., int], prog: str | None = None, *, exits: bool = True
) -> FunctionParser:
    """Return a parser of a command's options.

    Args:
        function: The command.
        prog: How it is called.
        exits: Whether an error ends the program; False raises it.
    """
    summary = (inspect.getdoc(function) or "").split("\n\nArgs:")[0]
    parser = FunctionParser(prog=prog, description=summary, exit_on_error=exits)
    if prog is not None:
        parser.add_argument("--config", action="config", help="YAML with these options")
    # as_group names a group after the function, which may be the name of an option too
    parser.add_function_arguments(function, as_group=False)
    if prog is not None:
        add_group_helps(parser)
    return parser
