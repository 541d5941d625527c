"""Parsers that answer a mistake with a sentence and a question for help with a page. Without torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

from typing_extensions import override

from rlaif_pl.cli.commands.help_text import help_text
from rlaif_pl.cli.commands.plain_texts import keep_line_breaks
from rlaif_pl.cli.commands.refusals import Refusal, refusal
from rlaif_pl.pipeline.yaml_files import read_yaml

OF_CONFIGS = ("Problems parsing config", "Unexpected config", "Unable to load config")
GIVEN: ContextVar[Sequence[str]] = ContextVar("GIVEN", default=())  # words that are being parsed


class OneSentence:
    """Mixin of parsers: an error says what was expected, what came, and where help is."""

    prog: str
    exit_on_error: bool = True

    def parse_args(self, args: Any = None, *more: Any, **options: Any) -> Any:
        """Parse words, which an error is then looked up in."""
        words = [keep_line_breaks(word) for word in (sys.argv[1:] if args is None else args)]
        token = GIVEN.set(words)
        try:
            return super().parse_args(words, *more, **options)  # type: ignore[misc]
        finally:
            GIVEN.reset(token)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and exit with 2; or raise, where the parser is asked to."""
        if not self.exit_on_error:
            super().error(message, ex)  # type: ignore[misc]
        parser: Any = getattr(ex, "subcommand_parser", None) or self
        found = refusal(parser, message)
        words = GIVEN.get()
        place = place_of(found, words)
        if place is None and not found.key and message.startswith(OF_CONFIGS):
            place = ", ".join(config_files(words)) or None
        is_option = place is None and any(word.startswith("--") for word in words)
        said = found.said(is_option)
        sys.stderr.write(f"error: {f'{place}: ' if place else ''}{said}\n{hint(parser, found)}\n")
        sys.exit(2)


class PlainParser(OneSentence, argparse.ArgumentParser):
    """The parser of commands that need no more than argparse."""

    @override
    def format_help(self) -> str:
        return help_text(self)


def hint(parser: argparse.ArgumentParser, found: Refusal) -> str:
    """Return the line that says which command lists what there is."""
    prog = parser.prog.replace(" [options]", "")
    if found.owner and f"--{found.option}.help" in parser._option_string_actions:
        return f"({prog} --{found.option}.help {found.owner} lists its keys)"
    return f"({prog} --help lists its options)"


def place_of(found: Refusal, words: Sequence[str]) -> str | None:
    """Return the config file among the words that has a key at fault; None if the words have it."""
    files = [Path(each) for each in config_files(words)]
    last = found.key.rpartition(".")[2]
    options = [word.partition("=")[0].removeprefix("--") for word in words if word.startswith("--")]
    # given as the key, or as one below a class that the key belongs to
    if not last or any(f".{option}".endswith(f".{found.key}") for option in options):
        return None
    for file in reversed(files):
        if _has(read_yaml(file), last):
            return str(file)
    return None


def config_files(words: Sequence[str]) -> list[str]:
    """Return the config files that a command line names."""
    files = []
    for before, word in zip(["", *words], words, strict=False):
        option, _, value = word.partition("=")
        if before in ("--config", "-c"):
            files.append(word)
        elif value and option in ("--config", "-c"):
            files.append(value)
    return files


def _has(content: object, key: str) -> bool:
    """Whether a mapping has a key, at any depth."""
    if isinstance(content, Mapping):
        return key in content or any(_has(value, key) for value in content.values())
    return isinstance(content, list) and any(_has(item, key) for item in content)
