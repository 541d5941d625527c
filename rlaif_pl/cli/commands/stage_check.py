"""``run --check``: whether every stage could run: its config, data, models, packages and servers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlaif_pl.cli.commands.config_check import ConfigCheck
from rlaif_pl.cli.commands.parsers import has_key
from rlaif_pl.cli.commands.refusals import Refusal
from rlaif_pl.pipeline import load_experiment
from rlaif_pl.pipeline.experiment import Experiment, Stage
from rlaif_pl.pipeline.plan import make_plan
from rlaif_pl.pipeline.yaml_files import Value, flatten
from rlaif_pl.recipes.studies.sources import located as located_pairs

# Keys of what stages read: data sets, and files that earlier stages make.
INPUTS = {
    *("data", "preferences", "prompts", "demonstrations", "validation", "final", "helpful"),
    *("pairs", "gold", "harmless_gold", "helpful_gold", "fit_temperature_on", "ai_labeled"),
    *("human", "ai", "votes", "samples", "revisions", "rows", "metrics", "references"),
}
ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".csv.gz")


def stage_check(
    file: Path, out: Path | None = None, force: Sequence[str] = (), seed: int | None = None
) -> int:
    """``--check``: every stage that is not finished: its config, data, models, packages and servers.

    Servers of the first stage must be there; those of later ones may be started by then (a labeler and
    the training may take turns on the GPUs), so that they are missing is said and no more.

    Returns:
        0, or 1 where a stage could not run; standard error says which and why.
    """
    experiment = load_experiment(file, out, seed)
    stages = [plan.stage for plan in make_plan(experiment, force) if plan.action != "skip"]
    check, found = ConfigCheck(), 0
    for stage in stages:
        content = experiment.resolve(stage)
        refused = check.refused(stage.command, content)
        problem = located(experiment, stage, refused) if refused else None
        absent = check.absent(experiment.out)
        problem = problem or absent_data(experiment, stage, content) or absent
        silent = check.unreachable()
        if problem is None and silent is not None and stage is not stages[0]:
            sys.stderr.write(f"warning: stage {stage.name}: {silent} before this stage\n")
        elif problem := problem or silent:
            found += 1
            sys.stderr.write(f"stage {stage.name}: {problem}\n")
    if found:
        sys.stderr.write(
            f"error: {found} of {len(stages)} stages could not run, so none was started; mend the "
            "above, or go ahead with --no_check\n"
        )
    return 1 if found else 0


def located(experiment: Experiment, stage: Stage, refused: Refusal) -> str:
    """Return what is wrong with a stage's config, with the file that says so where one key does."""
    last = refused.key.rpartition(".")[2]
    if not last:
        return refused.said()
    is_set = stage.config is None or has_key(dict(stage.overrides), last)
    file = experiment.file if is_set else stage.config
    return f"{refused.said()} (in {file})"


def absent_data(experiment: Experiment, stage: Stage, content: Mapping[str, Value]) -> str | None:
    """Name a data file of a stage that is neither there nor below the run folder; None if all are."""
    for key, value in flatten(dict(content)).items():
        *above, last = key.split(".")
        is_data = isinstance(value, str) and value.endswith(ENDINGS) and last != "create_with"
        if not is_data or not INPUTS & {*above, last} or "://" in str(value):
            continue
        path = Path(str(value)).expanduser()
        if path.absolute().is_relative_to(experiment.out.absolute()) or path.exists():
            continue
        told = f"expected a data file at {value}, found none; check the name"
        if stage.command == "study pairs":  # looks in another folder, too
            try:
                path = Path(located_pairs(str(value)).name)
            except FileNotFoundError as error:
                told = str(error)
        if not path.exists():
            return f"{key}: {told}"
    return None
