"""Command line: ``python -m rlaif_pl COMMAND``.

Imports happen inside the commands: ``run`` and ``--help`` start in a second instead of ten.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rlaif_pl import __version__
from rlaif_pl.configs_folder import find_config

LIGHTNING = ("fit", "validate", "test", "predict")
DEFAULT_FIT = "quickstart/reward_from_pairs.yaml"
# Command to module and function; the function's signature is the command's options.
FUNCTIONS = {
    "sample": ("rlaif_pl.commands.sample", "sample"),
    "label": ("rlaif_pl.commands.label", "label"),
    "revise": ("rlaif_pl.commands.revise", "revise"),
    "rest": ("rlaif_pl.commands.rest", "rest"),
    "evaluate alignment": ("rlaif_pl.commands.alignment", "alignment"),
    "evaluate reward": ("rlaif_pl.commands.evaluate", "reward"),
    "evaluate policy": ("rlaif_pl.commands.evaluate", "policy"),
    "evaluate matrix": ("rlaif_pl.commands.matrix", "matrix"),
    "rate": ("rlaif_pl.commands.rate", "rate"),
    "evaluate ratings": ("rlaif_pl.commands.ratings", "ratings"),
    "study pairs": ("rlaif_pl.commands.study", "pairs"),
    "study rewards": ("rlaif_pl.commands.study", "rewards"),
    "study curve": ("rlaif_pl.commands.study", "curve"),
    "study sizes": ("rlaif_pl.commands.study", "sizes"),
    "study cost": ("rlaif_pl.commands.study", "cost"),
    "evaluate revisions": ("rlaif_pl.commands.revisions", "revisions"),
    "evaluate harmless": ("rlaif_pl.commands.harmless", "harmless"),
    "select": ("rlaif_pl.commands.select", "select"),
    "report": ("rlaif_pl.commands.report", "report"),
    "export": ("rlaif_pl.commands.export", "export"),
    "doctor": ("rlaif_pl.commands.doctor", "doctor"),
}
GROUPS = ("evaluate", "study")  # commands of two words
HELP = """\
usage: python -m rlaif_pl COMMAND [options]      (COMMAND --help says more)

a whole experiment
  run FILE             every stage of an experiment, each in its own process; finished ones are skipped

training (LightningCLI: --config FILE, --print_config, --trainer.*, --model.*, --data.*)
  fit                  train the module of a config; without one, the quickstart reward model
  validate, test, predict

single steps
  sample               responses of a policy, as unlabeled pairs
  label                preferences by a language model, as soft labels
  revise               answers to harmful requests, criticized and revised, as demonstrations
  rest                 a policy trained on its own best samples (Grow and Improve steps)
  evaluate alignment   agreement of a labeler with people, beside the length rule
  evaluate reward      pair accuracy and calibration of a reward model
  evaluate policy      win rates, KL, lengths and copying of a policy against its SFT policy
  evaluate matrix      win rates of every two of several policies, by several judges
  rate                 a page on which people rank responses without knowing who wrote them
  evaluate ratings     win rates by people beside those of judges; preferences to train on
  study pairs          judged pairs of a study, with subsets of the votes
  study rewards        rewards from AI labels, people's and both, on people's verdicts
  study curve          accuracy of a reward against the pairs it was trained on
  study sizes          agreement with people by size of the labeler, from a table of labelers
  study cost           price of a label by model and by person, from a table of labelers
  evaluate revisions   what each round of revision did, by judges that are measured themselves
  evaluate harmless    share of responses that a judge of single responses finds harmless
  select               of the best checkpoints by validation reward, the one that wins most against SFT
  report               one HTML page about a run
  export               preferences as Parquet, with a card, or in TRL's columns; or a model's replies

  doctor               what works on this machine, and what to do about what does not
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        args: Command and options; ``sys.argv[1:]`` where None.

    Returns:
        Exit status: 0, 1 after an error that is explained on standard error, 2 for wrong usage.
    """
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(HELP)
        return 0 if words else 2
    if words[0] == "--version":
        sys.stdout.write(f"rlaif_pl {__version__}\n")
        return 0
    command = " ".join(words[:2]) if words[0] in GROUPS else words[0]
    rest = words[len(command.split()) :]
    if command not in (*LIGHTNING, *FUNCTIONS, "run"):
        known = ", ".join([*LIGHTNING, "run", *FUNCTIONS])
        sys.stderr.write(f"error: unknown command {command!r}; known: {known}\n")
        return 2
    try:
        if command == "run":
            return run_experiment(rest)
        if command in LIGHTNING:
            return run_lightning(command, rest)
        return run_function(command, rest)
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("RLAIF_PL_TRACEBACK") == "1":
            raise
        sys.stderr.write(f"error: {error}\n(RLAIF_PL_TRACEBACK=1 shows where)\n")
        return 1


def run_experiment(args: list[str]) -> int:
    """``run FILE``: every stage of an experiment."""
    parser = argparse.ArgumentParser(
        "python -m rlaif_pl run",
        description="Run an experiment; what is finished is skipped, what was interrupted goes on.",
    )
    parser.add_argument("file", help="experiment YAML; one that comes with the package by its name")
    parser.add_argument("--out", type=Path, help="folder of the run, in place of the file's")
    parser.add_argument("--seed", type=int, help="in place of the file's")
    parser.add_argument(
        "--force",
        nargs="+",
        default=[],
        metavar="STAGE",
        help="run these (and what reads them) again",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="say what would run, check every stage's config, and estimate memory, time and cost",
    )
    given = parser.parse_args(args)
    file = find_config(given.file)
    if given.dry_run:
        from rlaif_pl.commands.dry_run import dry_run

        return dry_run(file, FUNCTIONS, given.out, given.force, given.seed)
    from rlaif_pl.pipeline import run

    return run(file, given.out, given.force, given.seed)


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
    from rlaif_pl.commands.train import train

    return train([command, *find_configs(args)])


def run_function(command: str, args: list[str]) -> int:
    """A command that is one typed function."""
    from jsonargparse import ArgumentParser

    module, name = FUNCTIONS[command]
    function: Callable[..., int] = getattr(importlib.import_module(module), name)
    summary = (inspect.getdoc(function) or "").split("\n\nArgs:")[0]
    parser = ArgumentParser(prog=f"python -m rlaif_pl {command}", description=summary)
    parser.add_argument("--config", action="config", help="YAML with these options")
    # as_group names a group after the function, which may be the name of an option too
    parser.add_function_arguments(function, as_group=False)
    words = gather_lists(function, find_configs(args))
    given = parser.instantiate_classes(parser.parse_args(words))
    options = {key: getattr(given, key) for key in inspect.signature(function).parameters}
    return function(**options)


def find_configs(args: list[str]) -> list[str]:
    """Replace names of configs that come with the package by their paths."""
    result: list[str] = []
    for before, word in zip(["", *args], args, strict=False):
        option, _, value = word.partition("=")
        if before in ("--config", "-c"):
            word = str(find_config(word))
        elif value and option in ("--config", "-c"):
            word = f"{option}={find_config(value)}"
        result.append(word)
    return result


def gather_lists(function: Callable[..., int], args: list[str]) -> list[str]:
    """Turn ``--confidence 1 2 8`` into ``--confidence [1,2,8]`` for options that are lists."""
    hints = {name: str(p.annotation) for name, p in inspect.signature(function).parameters.items()}
    lists = {f"--{name}" for name, hint in hints.items() if hint.startswith("list[")}
    result: list[str] = []
    index = 0
    while index < len(args):
        word = args[index]
        result.append(word)
        index += 1
        if word not in lists:
            continue
        values = []
        while index < len(args) and not args[index].startswith("--"):
            values.append(args[index])
            index += 1
        single = len(values) == 1 and values[0].startswith("[")
        result.append(values[0] if single else f"[{','.join(values)}]")
    return result
