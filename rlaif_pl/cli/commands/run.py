"""``run``: a whole experiment, or what it would do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from rlaif_pl.cli.commands.usage import PlainParser
from rlaif_pl.config_paths import find_config
from rlaif_pl.device_names import KINDS
from rlaif_pl.pipeline import load_experiment, run
from rlaif_pl.pipeline.plan import make_plan
from rlaif_pl.pipeline.yaml_files import whole_number

Functions = Mapping[str, tuple[str, str]]


def run_parser() -> PlainParser:
    """Return the parser of ``run``."""
    parser = PlainParser(
        "python -m rlaif_pl run",
        description="Run an experiment; what is finished is skipped, what was interrupted goes on.",
    )
    parser.add_argument("file", help="experiment YAML; one that comes with the package by its name")
    parser.add_argument("--out", type=Path, help="folder of the run, in place of the file's")
    parser.add_argument("--seed", type=whole, help="in place of the file's")
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
    parser.add_argument(
        "--no_check",
        action="store_true",
        help="start without looking whether later stages have their data and servers",
    )
    parser.add_argument("--check", action="store_true", help="look for that, and run nothing")
    parser.add_argument("--device", help=f"of every stage, in place of the file's: {KINDS}")
    parser.add_argument(
        "--nodes", type=whole, default=1, help="nodes on each of which this command is given"
    )
    parser.add_argument(
        "--node_rank",
        type=whole,
        default=os.environ.get("SLURM_NODEID", "0"),
        help="which of the nodes this is, from 0 (SLURM_NODEID)",
    )
    parser.add_argument("--main_address", help="of node 0, where its host name is not known")
    return parser


def run_experiment(args: list[str], functions: Functions) -> int:
    """``run FILE``: every stage of an experiment.

    Returns:
        Exit status.
    """
    parser = run_parser()
    given = parser.parse_args(args)
    if given.nodes == 1:  # a variable of a job in which this command runs alone
        given.node_rank = 0
    if not 0 <= given.node_rank < max(given.nodes, 1):
        parser.error(
            f"expected --node_rank from 0 to {given.nodes - 1}, below --nodes, got {given.node_rank}"
        )
    file = find_config(given.file)
    if given.check:
        from rlaif_pl.cli.commands.stage_check import stage_check

        return stage_check(file, functions, given.out, given.force, given.seed)
    if given.dry_run:
        from rlaif_pl.cli.commands.dry_run import dry_run

        return dry_run(file, functions, given.out, given.force, given.seed, given.device)
    if given.node_rank == 0:  # the others do as it says
        experiment = load_experiment(file, given.out, given.seed, given.device)
        plans = make_plan(experiment, given.force)
    if given.node_rank == 0 and not given.no_check and any(p.action != "skip" for p in plans):
        # In a process of its own: this one lives as long as the run and would keep torch in memory.
        words = [sys.executable, "-m", "rlaif_pl", "run", *args, "--check"]
        if code := subprocess.run(words, check=False).returncode:
            return code
    return run(
        file,
        given.out,
        given.force,
        given.seed,
        device=given.device,
        nodes=given.nodes,
        node_rank=given.node_rank,
        main_address=given.main_address,
    )


def whole(word: str) -> int:
    """Read a whole number, also one written as ``1e3``."""
    number = whole_number(word)
    return int(word) if number is None else number
