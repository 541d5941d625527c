"""What a parser refuses, in one sentence: ``expected X, got Y`` and the nearest names. Without torch.

jsonargparse (4.53) answers with a tree of everything that it tried. The first line of that tree which
says something definite, the keys above it and the class that they belong to are what a user needs.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from jsonargparse import ArgumentParser

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
NO_PATH = re.compile(r"Expected a dot import path string: (.*)")
NO_MAPPING = re.compile(r"Unable to load config '(.*)'")
WRONG_TYPE = re.compile(r"Expected (?:an? )?(.+?)\. Got value: (.*)")
ONE_TYPE = re.compile(r"- Expected (?:an? )?(.+)")
GIVEN = re.compile(r"Given value: (.*)")
NO_TEXT = re.compile(r"Key must be a string, got: (.+)\.$")
NO_VALUE = re.compile(r"argument (\S+): expected (one|at least one) argument")
NOT_READ = re.compile(r"argument (\S+): invalid (\w+) value: (.*)")
NO_CONFIG = re.compile(r"Unexpected config:(.*)", re.DOTALL)
NO_FILE = "Expected a path but"
REQUIRED = "the following arguments are required: "
PROTOCOLS = {
    "Reward": "rlaif_pl.types",
    "Labeler": "rlaif_pl.types",
    "Backend": "rlaif_pl.labeling.calls",
}  # where they are, by the name that the parser knows them by
PLAIN = {"NoneType": "null", "whole": "int", "dict": "a mapping"} | dict.fromkeys(
    ("list", "tuple"), "a list"
)


@dataclass(frozen=True)
class Refusal:
    """Why a command line or a config is refused."""

    text: str  # what was expected and what came; `{key}` stands for the option or key at fault
    key: str = ""  # dotted key at fault; empty where no single one is
    # class that the key belongs to, by its path; None for the command itself
    owner: str | None = None
    near: tuple[str, ...] = ()  # the nearest names that there are
    option: str = ""  # option of the command that the class was given for; empty without a class

    def said(self, is_option: bool = False) -> str:
        """Return the sentence."""
        prefix = "--" if is_option and self.owner is None else ""
        text = self.text.replace("{key}", f"{prefix}{self.key}")
        text = text.replace("{kind}", "option" if is_option else "key")
        near = " or ".join(f"{prefix}{name}" for name in self.near)
        return text + (f"; did you mean {near}?" if near else "")


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


def refusal(parser: argparse.ArgumentParser, message: str) -> Refusal:
    """Return what a parser's message comes to."""
    if message.startswith(UNKNOWN):
        return _unknown_words(parser, message.removeprefix(UNKNOWN).split())
    if message.startswith(REQUIRED):
        names = message.removeprefix(REQUIRED).split(", ")
        plain = [action.dest for action in parser._actions if not action.option_strings]
        options = [name if name in plain else f"--{name}" for name in names]
        return Refusal(
            f"expected {' and '.join(options)}, got none; give it, or a --config with it"
        )
    if found := NO_CONFIG.match(message):
        return Refusal(f"expected a mapping of keys, got {found[1].strip()[:80]!r}")
    if found := NO_TEXT.match(message):
        return Refusal(f"expected keys that are text, got {found[1]}; put it in quotes")
    if found := NO_VALUE.match(message):
        return Refusal(f"expected a value after {found[1]}, got none")
    if found := NOT_READ.match(message):
        return Refusal(f"expected {found[1]} to be {_type(found[2])}, got {found[3]}")
    context = _Context()
    lines = message.splitlines()
    for number, line in enumerate(lines):
        context.enter(line)
        if told := _definite(parser, context, line, lines[number:]):
            is_of_option = told.owner is not None and told.owner == context.owner
            return replace(told, option=context.option if is_of_option else "")
    stripped = [line.strip() for line in lines if line.strip()]
    shown = explained(ValueError("\n".join(stripped[1:]))) if stripped[1:] else ""
    return Refusal(" ".join(filter(None, [stripped[0] if stripped else message, shown])))


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
        value = next((each[1] for each in map(GIVEN.search, rest) if each), "another")
        return _not_of_kind(context.key(), context.owner, found[1] or value, found[2])
    if found := NOT_CALLED_FOR.search(line.partition(" Got value: ")[0]):
        bases = re.sub(r"\w+\[(.*)\]", r"\1", _type(found[3])).replace(", ", " or ")
        kind = f"subclass of {bases}"
        kind += ", or a function that declares to return one" * (found[2][0] == "f")
        return _refused_object(context.key(), context.owner, found[1], kind)
    if found := NO_PATH.search(line):
        text = f"expected {{key}} to be a class (such as package.module.Class), got {found[1]!r}"
        return Refusal(text, context.key(), context.owner)
    if found := NO_MAPPING.search(line):
        return Refusal(f"expected {{key}} to be a mapping of keys, got {found[1]!r}", context.key())
    if found := WRONG_TYPE.search(line):
        return _wrong_type(context, [found[1]], found[2])
    if ONE_TYPE.search(line) and NO_FILE not in line:
        depth = len(line) - len(line.lstrip())
        beside = [other for other in rest if len(other) - len(other.lstrip()) == depth]
        kinds = [each[1] for each in map(ONE_TYPE.search, beside) if each]
        value = next((each[1] for each in map(GIVEN.search, rest) if each), "another value")
        return _wrong_type(context, kinds, value)
    return None


def _unknown_words(parser: argparse.ArgumentParser, words: Sequence[str]) -> Refusal:
    """Refuse words of a command line that no option takes."""
    given = [word.split("=")[0] for word in words if word.startswith("-")]
    if not given:
        prog = parser.prog.replace(" [options]", "")
        return Refusal(f"expected options after {prog}, got {' '.join(words)!r}")
    known = [name for action in parser._actions for name in action.option_strings]
    told = [f"unknown option {name}{meant(name, known)}" for name in given]
    return Refusal("; ".join(told))


def _unknown(parser: argparse.ArgumentParser, key: str, owner: str | None) -> Refusal:
    """Refuse a key that the command, or a class, does not have."""
    known = _keys(parser) if owner is None else _keys(_parser_of(owner))
    near = nearest(key, known)
    of_class = f" of {owner.rpartition('.')[2]}" if owner else ""
    has = f"; it has {', '.join(known)}" if owner and not near and known else ""
    return Refusal(f"unknown {{kind}} {{key}}{of_class}{has}", key, owner, near)


def _no_class(
    module: str | None, name: str | None, missing: str | None, owner: str | None
) -> Refusal:
    """Refuse the path of a class that does not exist, or whose module imports one that does not."""
    if missing and owner and not f"{owner}.".startswith(f"{missing}."):
        return Refusal(
            f"expected to import {owner}, which needs the module {missing}, got none of that name; "
            "install it, or leave its import out"
        )
    known: list[str] = []
    if module is not None and name is not None:
        holder = importlib.import_module(module)
        known = [each for each in dir(holder) if isinstance(getattr(holder, each, None), type)]
    text = f"expected class_path to name a class that exists, got {owner!r}"
    return Refusal(
        text, "class_path", None, tuple(f"{module}.{near}" for near in nearest(name or "", known))
    )


def _not_of_kind(key: str, owner: str | None, path: str, kind: str) -> Refusal:
    """Refuse an object that is no class of the kind that an option takes, and say how to write one."""
    protocol = _protocol(kind)
    if protocol is None:
        return _refused_object(key, owner, path, f"subclass of {kind}")
    wanted = [name for name in vars(protocol) if not name.startswith("_")]
    told = " and ".join(_signature(protocol, name) for name in wanted)
    if kind == "Reward":
        told += ", or a function of prompts and responses without init_args"
    return _refused_object(key, owner, path, f"class with {told}", wanted)


def _refused_object(
    key: str, owner: str | None, path: str, kind: str, wanted: Sequence[str] = ()
) -> Refusal:
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
    of_class = f" of {owner.rpartition('.')[2]}" if owner else ""
    return Refusal(f"expected {{key}}{of_class} to be a {kind}, got {what}{lacks}", key, owner)


def _protocol(name: str) -> type | None:
    """Return the protocol of this package that has a name; None where there is none."""
    module = PROTOCOLS.get(name)
    return None if module is None else getattr(importlib.import_module(module), name)


def _signature(protocol: type, name: str) -> str:
    """Return a protocol's member as a class declares it."""
    member = vars(protocol)[name]
    return (
        name
        if isinstance(member, property)
        else f"{name}{inspect.signature(member)}".replace("'", "")
    )


def _wrong_type(context: _Context, kinds: Sequence[str], value: str) -> Refusal:
    """Refuse a value of another type."""
    told = list(dict.fromkeys(_type(kind) for kind in kinds))
    literals = re.findall(r"'([^']+)'", kinds[0]) if "Literal" in kinds[0] else []
    near = get_close_matches(value, literals, 1)
    meant_one = f"; did you mean {near[0]}?" if near else ""
    of_class = f" of {context.owner.rpartition('.')[2]}" if context.owner else ""
    text = f"expected {{key}}{of_class} to be {' or '.join(told)}, got {value[:80]!r}{meant_one}"
    return Refusal(text, context.key(), context.owner)


def _type(kind: str) -> str:
    """Return a type as a user would say it: ``int``, ``null``, ``warn or stop``."""
    if "Literal[" in kind:
        return " or ".join(part.strip(" '\"") for part in kind.partition("[")[2][:-1].split(","))
    plain = re.sub(r"<class '([^']+)'>", r"\1", kind)
    plain = re.sub(r"\b[A-Za-z_][\w.]*\.(\w+)", r"\1", plain)
    return PLAIN.get(plain, plain)


def _keys(parser: argparse.ArgumentParser | None) -> list[str]:
    """Return the dotted keys that a parser knows."""
    actions = [] if parser is None else parser._actions
    keys = [action.dest for action in actions if action.option_strings]
    return [key for key in keys if key not in ("help", "print_config") and key[-5:] != ".help"]


def _parser_of(path: str) -> argparse.ArgumentParser | None:
    """Return a parser of a class's arguments; None where it cannot be made."""
    module, _, name = path.rpartition(".")
    made = ArgumentParser(exit_on_error=False)
    try:
        made.add_class_arguments(getattr(importlib.import_module(module), name), fail_untyped=False)
    except (ImportError, AttributeError, ValueError, TypeError):
        return None
    return made


def nearest(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the nearest names; of dotted ones, those with the same front first."""
    listed = list(known)
    front, dot, last = name.rpartition(".")
    beside = {
        key.rpartition(".")[2]: key for key in listed if key.rpartition(".")[:2] == (front, dot)
    }
    near = [beside[key] for key in get_close_matches(last, beside, SHOWN)]
    return tuple(near or get_close_matches(name, listed, SHOWN))


def meant(name: str, known: Iterable[str]) -> str:
    """Ask whether one of the nearest names was meant; nothing where none is near."""
    near = nearest(name, known)
    return f"; did you mean {' or '.join(near)}?" if near else ""
