"""The commands: what the help says of each, and the function that it is."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable

LIGHTNING = ("fit", "validate", "predict")
GROUPS = ("evaluate", "study")  # commands of two words
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
  evaluate ratings     win rates by raters beside those of judges
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
# Commands that are functions, by their module in `cli.commands`: that of their first word, or another.
# They are called as the command's last word, and their signatures are the options.
ELSEWHERE = {f"evaluate {name}": name for name in ("alignment", "matrix", "ratings")}
FUNCTIONS = {
    command: ELSEWHERE.get(command, command.split()[0])
    for command in re.findall(r"^  ([a-z]+(?: [a-z]+)?)  ", HELP, re.MULTILINE)
    if command not in LIGHTNING
}


def function_of(command: str) -> Callable[..., int]:
    """Import the function of a command."""
    module = importlib.import_module(f"rlaif_pl.cli.commands.{FUNCTIONS[command]}")
    function: Callable[..., int] = getattr(module, command.split()[-1])
    return function
