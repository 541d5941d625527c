"""``run``: a whole experiment, or what it would do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rlaif_pl.cli.commands.parsers import PlainParser
from rlaif_pl.config_paths import find_config
from rlaif_pl.device_names import KINDS
from rlaif_pl.pipeline import load_experiment, run
from rlaif_pl.pipeline.plan import make_plan
from rlaif_pl.pipeline.yaml_files import whole_number


def run_parser() -> PlainParser:
    """Return the parser of ``run``."""
    parser = PlainParser(
        "python -m rlaif_pl run",
        description="Run an experiment; what is finished is skipped, what was interrupted goes on.",
    )
    add = parser.add_argument
    add("file", help="experiment YAML; one that comes with the package by its name")
    add("--out", type=Path, help="folder of the run, in place of the file's")
    add("--seed", type=whole, help="in place of the file's")
    again = "run these (and what reads them) again"
    add("--force", nargs="+", default=[], metavar="STAGE", help=again)
    plan = "say what would run, check every stage's config, and estimate memory, time and cost"
    add("--dry_run", action="store_true", help=plan)
    blind = "start without looking whether later stages have their data and servers"
    add("--no_check", action="store_true", help=blind)
    add("--check", action="store_true", help="look for that, and run nothing")
    add("--device", help=f"of every stage, in place of the file's: {KINDS}")
    add("--nodes", type=whole, default=1, help="nodes on each of which this command is given")
    rank = os.environ.get("SLURM_NODEID", "0")
    which = "which of the nodes this is, from 0 (SLURM_NODEID)"
    add("--node_rank", type=whole, default=rank, help=which)
    add("--main_address", help="of node 0, where its host name is not known")
    return parser


def run_experiment(args: list[str]) -> int:
    """``run FILE``: every stage of an experiment; returns the exit status."""
    parser = run_parser()
    given = parser.parse_args(args)
    if given.nodes == 1:  # a variable of a job in which this command runs alone
        given.node_rank = 0
    if not 0 <= given.node_rank < max(given.nodes, 1):
        parser.error(
            f"expected --node_rank from 0 to {given.nodes - 1}, below --nodes, got {given.node_rank}"
        )
    file = find_config(given.file)
    of_run = (file, given.out, given.force, given.seed)
    if given.check:
        from rlaif_pl.cli.commands.stage_check import stage_check

        return stage_check(*of_run)
    if given.dry_run:
        from rlaif_pl.cli.commands.dry_run import dry_run

        return dry_run(*of_run, given.device)
    if given.node_rank == 0:  # the others do as it says
        plans = make_plan(load_experiment(file, given.out, given.seed, given.device), given.force)
        if not given.no_check and any(plan.action != "skip" for plan in plans):
            # In a process of its own: this one lives as long as the run and would keep torch in memory.
            words = [sys.executable, "-m", "rlaif_pl", "run", *args, "--check"]
            if code := subprocess.run(words, check=False).returncode:
                return code
    names = ("device", "nodes", "node_rank", "main_address")
    return run(*of_run, **{name: getattr(given, name) for name in names})


def whole(word: str) -> int:
    """Read a whole number, also one written as ``1e3``."""
    number = whole_number(word)
    return int(word) if number is None else number
