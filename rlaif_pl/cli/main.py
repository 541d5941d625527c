"""Command line: ``python -m rlaif_pl COMMAND``.

Imports happen inside the commands: ``--help`` starts in a second instead of ten.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from rlaif_pl import __version__
from rlaif_pl.config_paths import find_config
from rlaif_pl.errors import explained, foreseen_errors, is_of_user

if TYPE_CHECKING:
    from jsonargparse import Namespace

LIGHTNING = ("fit", "validate", "predict")
DEFAULT_FIT = "quickstart/reward_from_pairs.yaml"
# Command to module and function; the function's signature is the command's options.
FUNCTIONS = {
    "sample": ("rlaif_pl.cli.commands.sample", "sample"),
    "label": ("rlaif_pl.cli.commands.label", "label"),
    "revise": ("rlaif_pl.cli.commands.revise", "revise"),
    "rest": ("rlaif_pl.cli.commands.rest", "rest"),
    "evaluate alignment": ("rlaif_pl.cli.commands.alignment", "alignment"),
    "evaluate reward": ("rlaif_pl.cli.commands.evaluate", "reward"),
    "evaluate policy": ("rlaif_pl.cli.commands.evaluate", "policy"),
    "evaluate matrix": ("rlaif_pl.cli.commands.matrix", "matrix"),
    "evaluate revisions": ("rlaif_pl.cli.commands.revisions", "revisions"),
    "evaluate harmless": ("rlaif_pl.cli.commands.harmless", "harmless"),
    "rate": ("rlaif_pl.cli.commands.rate", "rate"),
    "evaluate ratings": ("rlaif_pl.cli.commands.ratings", "ratings"),
    "study pairs": ("rlaif_pl.cli.commands.study", "pairs"),
    "study rewards": ("rlaif_pl.cli.commands.study", "rewards"),
    "study curve": ("rlaif_pl.cli.commands.study", "curve"),
    "study sizes": ("rlaif_pl.cli.commands.study", "sizes"),
    "study cost": ("rlaif_pl.cli.commands.study", "cost"),
    "select": ("rlaif_pl.cli.commands.select", "select"),
    "report": ("rlaif_pl.cli.commands.report", "report"),
    "export": ("rlaif_pl.cli.commands.export", "export"),
    "doctor": ("rlaif_pl.cli.commands.doctor", "doctor"),
}
GROUPS = ("evaluate", "study")  # commands of two words
INTERRUPTED = 130  # exit status, as of a shell: 128 + SIGINT
HELP = """\
usage: python -m rlaif_pl COMMAND [options]        COMMAND --help says more; --version

  run FILE             a whole experiment; finished stages are skipped
  doctor               what works on this machine

train (options: --config FILE, --model.*, --data.*, --trainer.*)
  fit                  an SFT policy, a reward model or a policy by A2C; without --config a quickstart
  validate             measures of held-out data
  predict              labels by several processes

make preferences, in the order of the pipeline
  sample               pairs of responses of a policy
  label                soft labels of pairs, by a language model
  export               preferences as Parquet with a card, in TRL's columns; a model's replies
  revise               answers criticized and revised by a model, as demonstrations
  rest                 a policy trained on its own best samples

measure
  evaluate alignment   a labeler against people, beside the length rule
  evaluate reward      a reward model: pair accuracy, calibration
  evaluate policy      a policy against its SFT policy: win rates, KL, length, copying
  evaluate matrix      every two of several policies, by several judges
  evaluate revisions   rounds of revision
  evaluate harmless    share of harmless responses
  select               of the best checkpoints the one that wins most
  rate                 a page on which people rank responses blind
  evaluate ratings     win rates by people beside those of judges
  report               one HTML page about a run

compare
  study pairs          judged pairs of a study, with subsets of the votes
  study rewards        rewards from AI labels, people's and both
  study curve          accuracy of a reward by number of pairs
  study sizes          agreement with people by size of the labeler
  study cost           price of a label, by model and by person

  completion SHELL     a script that completes commands and options: bash, zsh, fish

examples
  python -m rlaif_pl run configs/quickstart/rlaif.yaml --out runs/mine
  python -m rlaif_pl evaluate reward --reward.help rlaif_pl.models.RewardModel
"""


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
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(HELP)
        return 0 if words else 2
    if words[0] == "--version":
        sys.stdout.write(f"rlaif_pl {__version__}\n")
        return 0
    if words[0] in GROUPS and words[1:2] and words[1] in ("-h", "--help", "help"):
        lines = [line for line in HELP.splitlines() if line.startswith(f"  {words[0]} ")]
        sys.stdout.write("\n".join([*lines, ""]))
        return 0
    command = " ".join(words[:2]) if words[0] in GROUPS else words[0]
    rest = words[len(command.split()) :]
    known = [*LIGHTNING, "run", *FUNCTIONS, "completion"]
    if command not in known:
        sys.stderr.write(unknown_command(command, known))
        return 2
    try:
        if command == "run":
            from rlaif_pl.cli.commands.run import run_experiment

            return run_experiment(rest, FUNCTIONS)
        if command == "completion":
            return run_completion(rest)
        if command in LIGHTNING:
            return run_lightning(command, rest)
        return run_function(command, rest)
    except KeyboardInterrupt:
        sys.stderr.write(f"{command} was interrupted\n")
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
    beside = [name for name in known if name.rpartition(" ")[0] == group]
    near = [
        f"{group} {each}".strip()
        for each in get_close_matches(last, [n.split()[-1] for n in beside])
    ]
    near = near or get_close_matches(command, known)
    meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    single = [name for name in known if " " not in name]
    groups = [
        f"{g} {'|'.join(n.split()[1] for n in known if n.startswith(g + ' '))}" for g in GROUPS
    ]
    listed = textwrap.fill(f"known: {', '.join(single)}, {', '.join(groups)}", 100)
    hint = "(python -m rlaif_pl --help says more)"
    return f"error: unknown command {command!r}{meant}\n{listed}\n{hint}\n"


def run_completion(args: list[str]) -> int:
    """``completion SHELL``: a script that a shell completes commands and options with."""
    from rlaif_pl.cli.commands.usage import PlainParser

    parser = PlainParser(
        "python -m rlaif_pl completion",
        description="Print a script with which a shell completes the command rlaif-pl. For bash: "
        "rlaif-pl completion bash > ~/.local/share/bash-completion/completions/rlaif-pl",
    )
    parser.add_argument("shell", help="bash, zsh, fish or tcsh")
    given = parser.parse_args(args)
    from rlaif_pl.cli.commands.completion import completion
    from rlaif_pl.cli.commands.run import run_parser

    return completion(given.shell, FUNCTIONS, run_parser())


def run_lightning(command: str, args: list[str]) -> int:
    """``fit`` and its like through LightningCLI."""
    asks = {"-h", "--help", "--print_config"}
    if command == "fit" and not any(
        word.split("=")[0] in ("--config", "-c", "--model", *asks) for word in args
    ):
        sys.stdout.write(
            f"No --config: training the quickstart reward model on AI labels ({DEFAULT_FIT}).\n"
        )
        args = ["--config", str(find_config(DEFAULT_FIT)), *args]
    from rlaif_pl.cli.commands.train import train

    return train([command, *find_configs(args)])


def run_function(command: str, args: list[str]) -> int:
    """A command that is one typed function."""
    from rlaif_pl.cli.args import expand_home, gather_lists
    from rlaif_pl.cli.commands.parsers import function_parser

    module, name = FUNCTIONS[command]
    function: Callable[..., int] = getattr(importlib.import_module(module), name)
    parser = function_parser(function, f"python -m rlaif_pl {command}")
    words = parser.parse_args(gather_lists(function, find_configs(args)))
    expand_home(words)
    with place_of(words):
        given = parser.instantiate(words)
        options = {key: getattr(given, key) for key in inspect.signature(function).parameters}
        return function(**options)


def place_of(words: Namespace) -> AbstractContextManager[object]:
    """Let models be built for the device that a command is given, if it takes one."""
    if "device" not in words:
        return nullcontext()
    from rlaif_pl.models.device import computing_on

    return computing_on(words.device)


def find_configs(args: list[str]) -> list[str]:
    """Replace names of configs that come with the package by their paths."""
    result: list[str] = []
    for before, word in zip(["", *args], args, strict=False):
        option, _, value = word.partition("=")
        if before in ("--config", "-c"):
            word = str(utf8(find_config(word)))
        elif value and option in ("--config", "-c"):
            word = f"{option}={utf8(find_config(value))}"
        result.append(word)
    return result


def utf8(path: Path) -> Path:
    """Return a config's path after a look at its bytes: the parser's refusal would name no file.

    Raises:
        ValueError: It is not UTF-8.
    """
    if path.is_file():
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"expected {path} to be UTF-8, got bytes that are none ({error.reason}); save the "
                "file as UTF-8"
            ) from error
    return path
