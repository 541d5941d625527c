"""Command line: ``python -m rlaif_pl COMMAND``.

Imports happen inside the commands: ``--help`` starts in a second instead of ten.
"""

from __future__ import annotations

import inspect
import os
import sys
import textwrap
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from typing import TYPE_CHECKING

from rlaif_pl import __version__
from rlaif_pl.cli.registry import FUNCTIONS, GROUPS, HELP, LIGHTNING, function_of
from rlaif_pl.errors import explained, foreseen_errors, is_of_user

if TYPE_CHECKING:
    from jsonargparse import Namespace

DEFAULT_FIT = "quickstart/reward_from_pairs.yaml"
ASKS = ("-h", "--help", "help")
INTERRUPTED = 130  # exit status, as of a shell: 128 + SIGINT
# Functions that keep what they have, and go on when they are called again.
RESUMED = ("label", "evaluate alignment", "evaluate matrix", "rest", "revise")
SAY_WHERE = ("export", "rate", "report")  # commands that tell themselves where their files are


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        args: Command and options; ``sys.argv[1:]`` where None.

    Returns:
        Exit status: 0, 1 after an error that is explained on standard error, 2 for wrong usage, 130
        after an interrupt.
    """
    if args is None:
        find_own_classes()
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in ASKS:
        sys.stdout.write(HELP)
        return 0 if words else 2
    if words[0] == "--version":
        sys.stdout.write(f"rlaif_pl {__version__}\n")
        return 0
    if words[0] in GROUPS and words[1:2] and words[1] in ASKS:
        lines = [line for line in HELP.splitlines() if line.startswith(f"  {words[0]} ")]
        sys.stdout.write("\n".join([*lines, ""]))
        return 0
    length = 2 if words[0] in GROUPS else 1
    command, rest = " ".join(words[:length]), words[length:]
    known = [*LIGHTNING, "run", *FUNCTIONS, "completion"]
    if command not in known:
        sys.stderr.write(unknown_command(command, known))
        return 2
    try:
        return run_command(command, rest)
    except KeyboardInterrupt:
        goes_on = "; the same command goes on where it stopped" if command in RESUMED else ""
        sys.stderr.write(f"{command} was interrupted{goes_on}\n")
        return INTERRUPTED
    except foreseen_errors() as error:
        if os.environ.get("RLAIF_PL_TRACEBACK") == "1":
            raise
        if is_of_user(error):
            traceback.print_exception(error)
            sys.stderr.write(f"error: {explained(error)}\n")
        else:
            sys.stderr.write(f"error: {explained(error)}\n(RLAIF_PL_TRACEBACK=1 shows where)\n")
        return 1


def run_command(command: str, args: list[str]) -> int:
    """Run a command that there is."""
    if command == "run":
        from rlaif_pl.cli.commands.run import run_experiment

        return run_experiment(args)
    if command == "completion":
        return run_completion(args)
    return run_lightning(command, args) if command in LIGHTNING else run_function(command, args)


def find_own_classes() -> None:
    """Let classes of one's own be imported from the working folder, as ``python -m`` does.

    The installed script has the folder that it stands in there. Behind what is installed: a file
    ``torch.py`` that happens to lie here is not run.
    """
    here = os.getcwd()
    if not sys.flags.safe_path and not {"", here} & set(sys.path):
        sys.path.append(here)


def unknown_command(command: str, known: Sequence[str]) -> str:
    """Return the error of a command that is not known: the nearest, the known, where help is."""
    group, _, last = command.rpartition(" ")
    beside = {name.split()[-1]: name for name in known if name.rpartition(" ")[0] == group}
    near = [beside[each] for each in get_close_matches(last, beside)]
    near = near or get_close_matches(command, known)
    meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    listed = [name for name in known if " " not in name]
    for each in GROUPS:
        listed.append(f"{each} {'|'.join(n.split()[1] for n in known if n.startswith(f'{each} '))}")
    shown = textwrap.fill(f"known: {', '.join(listed)}", 100)
    hint = "(python -m rlaif_pl --help says more)"
    return f"error: unknown command {command!r}{meant}\n{shown}\n{hint}\n"


def run_completion(args: list[str]) -> int:
    """``completion SHELL``: a script that a shell completes commands and options with."""
    from rlaif_pl.cli.commands.parsers import PlainParser

    parser = PlainParser(
        "python -m rlaif_pl completion",
        description="Print a script with which a shell completes the command rlaif-pl. For bash: "
        "rlaif-pl completion bash > ~/.local/share/bash-completion/completions/rlaif-pl",
    )
    parser.add_argument("shell", help="bash, zsh, fish or tcsh")
    given = parser.parse_args(args)
    from rlaif_pl.cli.commands.completion import completion

    return completion(given.shell)


def run_lightning(command: str, args: list[str]) -> int:
    """``fit`` and its like through LightningCLI."""
    from rlaif_pl.cli.commands.parsers import find_configs

    complete = {"--config", "-c", "--model", "-h", "--help", "--print_config"}
    if command == "fit" and complete.isdisjoint(word.split("=")[0] for word in args):
        sys.stdout.write(
            f"No --config: training the quickstart reward model on AI labels ({DEFAULT_FIT}).\n"
        )
        args = ["--config", DEFAULT_FIT, *args]
    words = [command, *find_configs(args)]
    from rlaif_pl.cli.commands.train import train

    return train(words)


def run_function(command: str, args: list[str]) -> int:
    """A command that is one typed function; models are built for the device that it is given."""
    from rlaif_pl.cli.commands.parsers import (
        expand_home,
        find_configs,
        function_parser,
        gather_lists,
    )

    function = function_of(command)
    parser = function_parser(function, f"python -m rlaif_pl {command}")
    words = parser.parse_args(gather_lists(function, find_configs(args)))
    expand_home(words)
    with place_of(words):
        given = parser.instantiate(words)
        status = function(**{key: given[key] for key in inspect.signature(function).parameters})
    out = given.get("out")
    if status == 0 and isinstance(out, str) and command not in SAY_WHERE:
        sys.stderr.write(f"{command}: written to {out}\n")
    return status


def place_of(words: Namespace) -> AbstractContextManager[object]:
    """Let models be built for the device that a command is given, if it takes one."""
    if "device" not in words:
        return nullcontext()
    from rlaif_pl.models.device import computing_on

    return computing_on(words.device)
