"""``run FILE --dry_run``: the plan, a check of every stage's config, and what each stage takes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from rlaif_pl.cli.commands.config_check import ConfigCheck
from rlaif_pl.cli.commands.stage_check import located
from rlaif_pl.pipeline import load_experiment, run
from rlaif_pl.pipeline.estimate import estimate, show_estimates


def dry_run(
    file: Path,
    functions: Mapping[str, tuple[str, str]],
    out: Path | None = None,
    force: Sequence[str] = (),
    seed: int | None = None,
    device: str | None = None,
) -> int:
    """Plan, check and estimate an experiment; downloads, loads and changes nothing.

    Returns:
        0, or 1 where the config of a stage is wrong.
    """
    status = run(file, out, force, seed, dry_run=True, device=device)
    experiment = load_experiment(file, out, seed, device)
    check = ConfigCheck(functions)
    problems = {}
    for stage in experiment.stages:
        refused = check.refused(stage.command, experiment.placed(stage))
        if refused is not None:
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
