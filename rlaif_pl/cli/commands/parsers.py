"""Parsers of commands: a mistake is answered in a sentence, a question with a page. Without torch."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace
from jsonargparse._required import restore_suppressed_required

from rlaif_pl.cli.commands.help_text import add_group_helps, help_text
from rlaif_pl.cli.commands.refusals import Refusal, refusal
from rlaif_pl.cli.commands.values import keep_line_breaks
from rlaif_pl.config_paths import find_config
from rlaif_pl.pipeline.yaml_files import RepeatedKeyError, Value, flatten, read_yaml

OF_CONFIGS = ("Problems parsing config", "Unexpected config", "Unable to load config")
CONFIG = ("--config", "-c")
GIVEN: ContextVar[Sequence[str]] = ContextVar("GIVEN", default=())  # words that are being parsed
FOLDER: ContextVar[Path] = ContextVar("FOLDER", default=Path())  # where; parsers go elsewhere


class InPlainWords:
    """Mixin of parsers: an error says what was expected, what came, and where help is."""

    prog: str
    exit_on_error: bool = True

    def format_help(self, *_: object) -> str:
        """Return the help; while words are parsed, jsonargparse hides what is required."""
        with restore_suppressed_required():
            return help_text(self)  # type: ignore[arg-type]

    def parse_args(self, args: Any = None, *more: Any, **options: Any) -> Any:
        """Parse words, which an error is then looked up in."""
        words = [keep_line_breaks(word) for word in (sys.argv[1:] if args is None else args)]
        token, folder = GIVEN.set(words), FOLDER.set(Path.cwd())
        try:
            return super().parse_args(words, *more, **options)  # type: ignore[misc]
        finally:
            GIVEN.reset(token)
            FOLDER.reset(folder)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and exit with 2; or raise, where the parser is asked to."""
        if not self.exit_on_error:
            super().error(message, ex)  # type: ignore[misc]
        parser: Any = getattr(ex, "subcommand_parser", None) or self
        found, words = refusal(parser, message), GIVEN.get()
        place = place_of(found, words)
        if place is None and not found.key and message.startswith(OF_CONFIGS):
            place = ", ".join(file for *_, file in config_words(words)) or None
        is_option = place is None and any(word.startswith("--") for word in words)
        said = found.said(is_option)
        sys.stderr.write(f"error: {f'{place}: ' if place else ''}{said}\n{hint(parser, found)}\n")
        sys.exit(2)


class PlainParser(InPlainWords, argparse.ArgumentParser):
    """The parser of commands that need no more than argparse."""


class FunctionParser(InPlainWords, ArgumentParser):
    """Options of a function."""


def function_parser(
    function: Callable[..., int], prog: str | None = None, *, exits: bool = True
) -> FunctionParser:
    """Return a parser of a command's options: the function's arguments.

    ``prog`` is how it is called; one without is for configs alone. Without ``exits`` errors are raised.
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


def hint(parser: argparse.ArgumentParser, found: Refusal) -> str:
    """Return the line that says which command lists what there is."""
    prog = parser.prog.replace(" [options]", "")
    if found.owner and f"--{found.option}.help" in parser._option_string_actions:
        return f"({prog} --{found.option}.help {found.owner} lists its keys)"
    return f"({prog} --help lists its options)"


def place_of(found: Refusal, words: Sequence[str]) -> str | None:
    """Return the config file among the words that has a key at fault; None if the words have it.

    Of a key that is missing, the one that has the class.
    """
    last = found.key.rpartition(".")[2]
    options = [word.partition("=")[0].removeprefix("--") for word in words if word.startswith("--")]
    # given as the key, or as one below a class that the key belongs to
    if not last or any(f".{option}".endswith(f".{found.key}") for option in options):
        return None
    files = [file for *_, file in config_words(words)][::-1]
    given = [(file, read_yaml(FOLDER.get() / file)) for file in files]
    names = [last] if found.option in ("", *options) else [last, found.option.rpartition(".")[2]]
    return next((file for key in names for file, content in given if has_key(content, key)), None)


def has_key(content: Value, key: str) -> bool:
    """Whether a mapping has a key, at any depth."""
    return any(key in str(name).split(".") for name in flatten(content))


def config_words(words: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Yield each config that a command line names: the word's place, what leads it there, the name."""
    for place, (before, word) in enumerate(zip(["", *words], words, strict=False)):
        option, _, value = word.partition("=")
        if before in CONFIG:
            yield place, "", word
        elif value and option in CONFIG:
            yield place, f"{option}=", value


def find_configs(words: Sequence[str]) -> list[str]:
    """Replace names of configs that come with the package by their paths.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: One is not UTF-8, where the parser's refusal would name no file; or it gives a key
            twice, of which the parser would take the last without a word.
    """
    result = list(words)
    for place, option, name in config_words(words):
        path = find_config(name)
        result[place] = f"{option}{path}"
        try:
            if path.is_file():
                path.read_text(encoding="utf-8")
                read_yaml(path)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"expected {path} to be UTF-8, got bytes that are none ({error.reason}); save the "
                "file as UTF-8"
            ) from error
        except RepeatedKeyError:
            raise
        except ValueError:
            pass  # which the parser refuses, too
    return result


def expand_home(words: Namespace) -> None:
    """Write out a leading ``~/`` of every value, which a shell leaves in ``--out=~/runs`` and a config.

    Some parts would take it for the home folder and others for a folder of that name.
    """
    for key, value in list(words.items()):
        if isinstance(value, str | Path) and str(value).startswith("~/"):
            words[key] = type(value)(os.path.expanduser(value))


def gather_lists(function: Callable[..., int], args: Sequence[str]) -> list[str]:
    """Turn ``--confidence 1 2 8`` into ``--confidence [1,2,8]`` for lists; a data set has one, too."""
    hints = {name: str(p.annotation) for name, p in inspect.signature(function).parameters.items()}
    lists = {f"--{name}" for name, hint in hints.items() if hint.startswith("list[")}
    texts = {f"--{name}" for name, hint in hints.items() if hint.startswith("list[str]")}
    lists |= {f"--{name}.confidence" for name, hint in hints.items() if "DataSource" in hint}
    groups: list[list[str]] = []  # an option and its values
    for word in args:
        if word.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(word)
    result: list[str] = []
    for option, *values in groups:
        if option in lists and not (len(values) == 1 and values[0].startswith("[")):
            values = [json.dumps(values) if option in texts else f"[{','.join(values)}]"]
        result += [option, *values]
    return result
