"""``run --dry_run``: what an experiment would do, and need, and whether its configs are right."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rlaif_pl.cli.commands.config_check import ConfigCheck
from rlaif_pl.cli.commands.stage_check import located
from rlaif_pl.pipeline import load_experiment, run
from rlaif_pl.pipeline.estimate import estimate, show_estimates


def dry_run(
    file: Path,
    out: Path | None = None,
    force: Sequence[str] = (),
    seed: int | None = None,
    device: str | None = None,
) -> int:
    """``--dry_run``: plan, check and estimate an experiment; downloads, loads and changes nothing.

    Returns:
        0, or 1 where the config of a stage is wrong.
    """
    status = run(file, out, force, seed, dry_run=True, device=device)
    experiment = load_experiment(file, out, seed, device)
    check = ConfigCheck()
    problems = {}
    for stage in experiment.stages:
        if refused := check.refused(stage.command, experiment.placed(stage)):
            problems[stage.name] = located(experiment, stage, refused)
    expect, stages = estimate(experiment)
    console = Console(width=max(160, Console().width))
    show_estimates(console, expect, stages)
    built = f"{check.built} parts built" if check.built else "nothing to build without downloads"
    if not problems:
        console.print(f"configs of {len(experiment.stages)} stages parse; {built}", highlight=False)
        return status
    for name, problem in problems.items():
        sys.stderr.write(f"stage {name}: {problem}\n")
    return 1
