"""What a parser refuses, in one sentence: ``expected X, got Y`` and the nearest names. Without torch.

jsonargparse (4.53) answers with a tree of everything that it tried. The first line of that tree which
says something definite, the keys above it and the class that they belong to are what a user needs.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from jsonargparse import ArgumentParser
from jsonargparse._util import import_object

from rlaif_pl.cli.commands.help_text import literals
from rlaif_pl.errors import explained

SHOWN = 3  # nearest names
UNKNOWN = "unrecognized arguments: "
KEY = re.compile(r'Parser key "([^"]+)":')
CLASS = re.compile(r"Problem with given class_path '([^']+)':")
OPTIMIZER = re.compile(r"class_path='([^']+)'")
NOT_ACCEPTED = re.compile(
    r"(?:(?:Group|Subcommand) '([^']+)' does not accept option|Option) "
    r"'(.+?)'(?= |$|\.$)(?: is not accepted)?"  # a key may have quotes in it
)
NO_CLASS = re.compile(r"module '([^']+)' has no attribute '([^']+)'|No module named '([^']+)'")
NOT_OF_KIND = re.compile(
    r"Import path (?:(\S+) )?does not (?:implement protocol|correspond to a subclass of) (\S+)"
)
NOT_CALLED_FOR = re.compile(
    r"Expected '([^']+)' to be a (function that returns|subclass of) (.+?)\.*$"
)
NO_CLASS_YET = re.compile(r"Does not implement protocol .* Got value: NestedArg\(key='([^']+)'")
NO_PATH = re.compile(r"Expected a dot import path string: (.*)")
NO_MAPPING = re.compile(r"Unable to load config '(.*)'")
WRONG_TYPE = re.compile(r"Expected (?:an? )?(.+?)\. Got value: (.*)")
ONE_TYPE = re.compile(r"- Expected (?:an? )?(.+)")
GIVEN = re.compile(r"Given value: (.*)")
NO_FILE = "Expected a path but"
REQUIRED = "the following arguments are required: "
PROTOCOLS = ("rlaif_pl.types.Reward", "rlaif_pl.types.Labeler", "rlaif_pl.labeling.calls.Backend")
PLAIN = {
    **{"NoneType": "null", "whole": "int", "dict": "a mapping"},
    **{"list": "a list", "tuple": "a list"},
}


@dataclass(frozen=True)
class Refusal:
    """Why a command line or a config is refused."""

    # what was expected and what came; `{key}` is the option or key at fault, `{of}` its class
    text: str
    key: str = ""  # dotted key at fault; empty where no single one is
    owner: str | None = None  # class that the key belongs to, by its path; None for the command
    near: tuple[str, ...] = ()  # the nearest names that there are
    option: str = ""  # option of the command that the class was given for; empty without a class

    def said(self, is_option: bool = False) -> str:
        """Return the sentence."""
        prefix = "--" if is_option and self.owner is None else ""
        of = f" of {self.owner.rpartition('.')[2]}" if self.owner else ""
        text = self.text.replace("{key}", f"{prefix}{self.key}").replace("{of}", of)
        text = text.replace("{kind}", "option" if is_option else "key")
        return text + meant([f"{prefix}{name}" for name in self.near])


@dataclass
class _Context:
    """Where in the tree of a message one is: keys since the last class, that class, the option."""

    keys: list[str] = field(default_factory=list)
    owner: str | None = None
    option: str = ""

    def enter(self, line: str) -> None:
        """Note the key or the class that a line names."""
        if found := KEY.search(line):
            self.keys.append(found[1])
            self.option = self.option or found[1]
        if found := CLASS.search(line):
            self.owner = found[1]
            self.keys.clear()

    def key(self, *below: str | None) -> str:
        """Return the dotted key of something here."""
        return ".".join([*self.keys, *filter(None, below)])

    def refuses(self, text: str) -> Refusal:
        """Return the refusal of what is here."""
        return Refusal(text, self.key(), self.owner)


def refusal(parser: argparse.ArgumentParser, message: str) -> Refusal:
    """Return what a parser's message comes to."""
    if message.startswith(UNKNOWN):
        return _unknown_words(parser, message.removeprefix(UNKNOWN).split())
    if message.startswith(REQUIRED):
        plain = [action.dest for action in parser._actions if not action.option_strings]
        names = message.removeprefix(REQUIRED).split(", ")
        told = " and ".join(name if name in plain else f"--{name}" for name in names)
        return Refusal(f"expected {told}, got none; give it, or a --config with it")
    if found := re.match(r"Unexpected config:((?s:.*))", message):
        return Refusal(f"expected a mapping of keys, got {found[1].strip()[:80]!r}")
    if found := re.match(r"Key must be a string, got: (.+)\.$", message):
        return Refusal(f"expected keys that are text, got {found[1]}; put it in quotes")
    if found := re.match(r"argument (\S+): expected (?:one|at least one) argument", message):
        return Refusal(f"expected a value after {found[1]}, got none")
    if found := re.match(r"argument (\S+): invalid (\w+) value: (.*)", message):
        return Refusal(f"expected {found[1]} to be {_type(found[2])}, got {found[3]}")
    lines = message.splitlines()
    if any(map(_is_missing, lines)):  # of a class that there is: no other reading of it is meant
        return _missing(lines)
    context = _Context()
    for number, line in enumerate(lines):
        context.enter(line)
        if definite := _definite(parser, context, line, lines[number:]):
            is_of_option = definite.owner is not None and definite.owner == context.owner
            return replace(definite, option=context.option if is_of_option else "")
    stripped = [line.strip() for line in lines if line.strip()]
    shown = explained(ValueError("\n".join(stripped[1:]))) if stripped[1:] else ""
    return Refusal(" ".join(filter(None, [stripped[0] if stripped else message, shown])))


def _is_missing(line: str) -> bool:
    return line.lstrip().startswith(REQUIRED)


def _missing(lines: Sequence[str]) -> Refusal:
    """Return the refusal of a class that was given without an argument that it needs."""
    context = _Context()
    for line in itertools.takewhile(lambda line: not _is_missing(line), lines):
        context.enter(line)
    names = next(filter(_is_missing, lines)).lstrip().removeprefix(REQUIRED).split(", ")
    text = "expected {key}{of}, got none; give it under init_args"
    return Refusal(text, context.key(" and ".join(names)), context.owner, (), context.option)


def _definite(
    parser: argparse.ArgumentParser, context: _Context, line: str, rest: Sequence[str]
) -> Refusal | None:
    """Return the refusal that a line of a message stands for, if it says something definite."""
    if found := NOT_ACCEPTED.search(line):
        owner = context.owner
        if made := OPTIMIZER.search(line):  # an optimizer or schedule, whose class stands behind
            owner, context.keys = made[1], []
        group = None if line.lstrip().startswith("Subcommand") else found[1]
        return _unknown(parser, context.key(group, found[2]), owner)
    if found := NO_CLASS.search(line):
        return _no_class(found[1], found[2], found[3], context.owner)
    if found := NOT_OF_KIND.search(line):
        return _not_of_kind(context, found[1] or _given(rest, "another"), found[2])
    if found := NOT_CALLED_FOR.search(line.partition(" Got value: ")[0]):
        bases = re.sub(r"\w+\[(.*)\]", r"\1", _type(found[3])).replace(", ", " or ")
        kind = f"subclass of {bases}"
        kind += ", or a function that declares to return one" * (found[2][0] == "f")
        return _refused_object(context, found[1], kind)
    if found := NO_CLASS_YET.search(line):
        text = (
            f"expected a class for {{key}} before its key {found[1]}, got none; give {{key}} CLASS"
        )
        return context.refuses(text)
    if found := NO_PATH.search(line):
        text = f"expected {{key}} to be a class (such as package.module.Class), got {found[1]!r}"
        return context.refuses(text)
    if found := NO_MAPPING.search(line):
        key = context.key()
        owner = context.owner
        near = (f"{key}.name {found[1]}",) if f"{key}.name" in _keys(parser, owner) else ()
        text = f"expected {{key}}{{of}} to be a mapping of keys, got {found[1]!r}"
        return Refusal(text, key, owner, near)
    if found := WRONG_TYPE.search(line):
        return _wrong_type(context, [found[1]], found[2])
    if ONE_TYPE.search(line) and NO_FILE not in line:
        depth = len(line) - len(line.lstrip())
        beside = [other for other in rest if len(other) - len(other.lstrip()) == depth]
        kinds = [each[1] for each in map(ONE_TYPE.search, beside) if each]
        return _wrong_type(context, kinds, _given(rest, "another value"))
    return None


def _given(lines: Sequence[str], default: str) -> str:
    return next((found[1] for found in map(GIVEN.search, lines) if found), default)


def _unknown_words(parser: argparse.ArgumentParser, words: Sequence[str]) -> Refusal:
    given = [word.split("=")[0] for word in words if word.startswith("-")]
    if not given:
        prog = parser.prog.replace(" [options]", "")
        return Refusal(f"expected options after {prog}, got {' '.join(words)!r}")
    known = [name for each in parser._actions for name in each.option_strings if name[-1] != "+"]
    return Refusal("; ".join(f"unknown option {n}{meant(nearest(n, known))}" for n in given))


def _unknown(parser: argparse.ArgumentParser, key: str, owner: str | None) -> Refusal:
    """Refuse a key that the command, or a class, does not have."""
    known = _keys(parser, owner)
    near = nearest(key, known)
    has = f"; it has {', '.join(known)}" if owner and not near and known else ""
    return Refusal(f"unknown {{kind}} {{key}}{{of}}{has}", key, owner, near)


def _no_class(
    module: str | None, name: str | None, missing: str | None, owner: str | None
) -> Refusal:
    """Refuse the path of a class that does not exist, or whose module imports one that does not."""
    if missing and owner and not f"{owner}.".startswith(f"{missing}."):
        return Refusal(
            f"expected to import {owner}, which needs the module {missing}, got none of that name; "
            "install it, or leave its import out"
        )
    near: tuple[str, ...] = ()
    why = f"there is no module {missing}"
    if module is not None and name is not None:
        holder, why = importlib.import_module(module), f"{module} has no {name}"
        known = [each for each in dir(holder) if callable(getattr(holder, each, None))]
        near = tuple(f"{module}.{each}" for each in nearest(name, known))
    text = f"expected class_path to name a class or function that exists, got {owner!r}: {why}"
    return Refusal(text + meant(near), "class_path")


def _not_of_kind(context: _Context, path: str, kind: str) -> Refusal:
    """Refuse an object that is no class of the kind that an option takes, and say how to write one."""
    place = next((each for each in PROTOCOLS if each.endswith(f".{kind}")), None)
    if place is None:
        return _refused_object(context, path, f"subclass of {kind}")
    members = {n: each for n, each in vars(import_object(place)).items() if not n.startswith("_")}
    told = " and ".join(
        name if isinstance(each, property) else f"{name}{inspect.signature(each)}".replace("'", "")
        for name, each in members.items()
    )
    if kind == "Reward":
        told += ", or a function of prompts and responses without init_args"
    return _refused_object(context, path, f"class with {told}", list(members))


def _refused_object(context: _Context, path: str, kind: str, wanted: Sequence[str] = ()) -> Refusal:
    """Refuse an object by its path, saying what it is and what it lacks."""
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module), name, None) if module else None
    what, lacks = path, ""
    if isinstance(found, type):
        what = f"the class {path}"
        missing = [each for each in wanted if not hasattr(found, each)]
        if missing:
            lacks = f", which has no {' and no '.join(missing[:SHOWN])}"
        elif wanted:
            lacks = ", whose arguments or types are others"
    elif callable(found):
        what = f"the function {path}"
    return context.refuses(f"expected {{key}}{{of}} to be a {kind}, got {what}{lacks}")


def _wrong_type(context: _Context, kinds: Sequence[str], value: str) -> Refusal:
    told = " or ".join(dict.fromkeys(map(_type, kinds)))
    near = meant(get_close_matches(value, literals(kinds[0]), 1))
    return context.refuses(f"expected {{key}}{{of}} to be {told}, got {value[:80]!r}{near}")


def _type(kind: str) -> str:
    """Return a type as a user would say it: ``int``, ``null``, ``warn or stop``."""
    if choices := literals(kind):
        return " or ".join(choices)
    plain = re.sub(r"<class '([^']+)'>", r"\1", kind)
    plain = re.sub(r"\b[A-Za-z_][\w.]*\.(\w+)", r"\1", plain)
    return PLAIN.get(plain, plain)


def _keys(parser: argparse.ArgumentParser, owner: str | None) -> list[str]:
    """Return the dotted keys that a parser, or a class, knows; none of one that cannot be looked at."""
    if owner is not None:
        parser = made = ArgumentParser(exit_on_error=False)
        try:
            made.add_class_arguments(import_object(owner), fail_untyped=False)
        except (ImportError, AttributeError, ValueError, TypeError):
            return []
    keys = [action.dest for action in parser._actions if action.option_strings]
    return [key for key in keys if key not in ("help", "print_config") and key[-5:] != ".help"]


def nearest(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the nearest names; of dotted ones, those with the same front first."""
    listed = list(known)
    front, dot, last = name.rpartition(".")
    parts = {key: key.rpartition(".") for key in listed}
    beside = {end: key for key, (*above, end) in parts.items() if above == [front, dot]}
    near = [beside[end] for end in get_close_matches(last, beside, SHOWN)]
    return tuple(near or get_close_matches(name, listed, SHOWN))


def meant(near: Sequence[str]) -> str:
    """Ask whether one of the nearest names was meant; nothing where none is near."""
    return f"; did you mean {' or '.join(near)}?" if near else ""
