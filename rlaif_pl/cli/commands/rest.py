"""``rest``: Reinforced Self-Training, Grow and Improve steps from a policy and a reward."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from rich.console import Console

from rlaif_pl.data.csv_rows import Cell, write_table
from rlaif_pl.data.metric_files import (
    save_figure,
    write_json,
    write_metrics,
    write_page,
    write_text,
)
from rlaif_pl.data.sources import DataSource, load_prompts
from rlaif_pl.models.device import on_device, put, resolve_device
from rlaif_pl.models.export import save_policy
from rlaif_pl.models.model_folder import check_place
from rlaif_pl.models.policy import BackboneOptions, load_policy
from rlaif_pl.pipeline.experiment import Stage
from rlaif_pl.pipeline.process import launch
from rlaif_pl.pipeline.yaml_files import Value, dump_yaml
from rlaif_pl.recipes.rest import Rest, Step, page_of, plot
from rlaif_pl.recipes.rest_improve import Improve
from rlaif_pl.recipes.rest_samples import Drawing
from rlaif_pl.text import Template
from rlaif_pl.types import Reward


@on_device
def rest(
    policy: BackboneOptions,
    prompts: DataSource | str,
    validation: DataSource | str,
    reward: Reward,
    out: str,
    grow_steps: int = 1,
    drawing: Drawing = Drawing(),  # noqa: B008 - frozen
    improve: Improve = Improve(),  # noqa: B008 - frozen
    template: Template | None = None,
    validation_samples: int = 2,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Train a policy on its own best samples (ReST, arXiv 2308.08998) and write it to OUT/policy.

    A Grow step samples and scores; each of its Improve steps fits the policy to what passes a rising
    threshold. Run again after it was killed, it resumes.

    Args:
        policy: Policy to start from, fitted to the demonstrations.
        prompts: What to respond to; references among them are the demonstrations.
        validation: Held-out prompts on which each step's reward is measured.
        reward: Scores samples: a reward model, or a labeler (``LabelerReward``).
        out: Folder for the policy, results.md, steps.svg, metrics.json, steps.json and history.csv.
        grow_steps: Grow steps.
        drawing: How samples are drawn.
        improve: Thresholds, learning rates and the fit.
        template: How texts are written, `chat` or keys (`--template.help`); default: as a folder says.
        validation_samples: Samples of each validation prompt.
        seed: Seeds samples, adapters and order.
        device: Where models compute and are fitted: ``auto`` (a GPU where there is one), ``cpu``,
            ``cuda``, ``cuda:N`` or ``mps``.
    """
    started = time.monotonic()
    folder = Path(out)
    check_place(folder / "policy")
    loop = Rest(
        policy=policy,
        train=load_prompts(prompts),
        validation=load_prompts(validation),
        reward=put(reward, resolve_device(device)),
        out=folder,
        fit=fit,
        grow_steps=grow_steps,
        drawing=drawing,
        improve=improve,
        template=template,
        validation_samples=validation_samples,
        seed=seed,
    )
    steps = loop.run()
    whole = dataclasses.replace(loop.policy, trunk_layers=0, dtype="float32")
    save_policy(folder / "policy", load_policy(whole, loop.resolved_template))
    write_steps(folder, steps)
    metrics = summarize(steps) | {"rest/parts_skipped": float(loop.parts.skipped)}
    write_metrics(folder / "metrics.json", metrics | {"rest/seconds": time.monotonic() - started})
    page_of(steps).render(Console())
    return 0


def fit(config: dict[str, object], folder: Path) -> None:
    """Run ``fit`` on a config in a process of its own; a checkpoint in the folder is resumed.

    ``RuntimeError``: it failed; what it printed is in the folder's log.txt.
    """
    write_text(folder / "config.yaml", dump_yaml(cast("dict[str, Value]", config)))
    sys.stdout.flush()
    code = launch(Stage(folder.name, "fit", None, {}, (), ()), folder)
    if code != 0:
        raise RuntimeError(
            f"expected {folder.name} to fit, it ended with status {code}; see {folder / 'log.txt'}"
        )


def summarize(steps: Sequence[Step]) -> dict[str, float]:
    """Return the metrics of the loop: the start and the last step that was kept."""
    kept = [step for step in steps if step.is_kept]
    before, after = steps[0].result, kept[-1].result
    metrics = {
        "rest/improve_steps": float(len(steps) - 1),
        "rest/steps_kept": float(len(kept) - 1),
        "rest/reward_gain": after["reward"] - before["reward"],
        "rest/demonstration_reward": before["demonstration_reward"],
    }
    for name, result in (("before", before), ("after", after)):
        for key in {"reward", "reward_low", "reward_high", "words", "unfinished"} & result.keys():
            part, sign, end = key.partition("_")
            metrics[f"rest/{part}_{name}{sign}{end}"] = result[key]
    return metrics


def write_steps(folder: Path, steps: Sequence[Step]) -> None:
    """Write steps.json, and what the report shows: table, plot, and history.csv with a row a step."""
    page = page_of(steps)
    write_page(folder, page)
    save_figure(plot(steps), folder / page.plot)
    write_json(folder / "steps.json", [dataclasses.asdict(step) for step in steps])
    names = {f"rest/val_{key}": key for key in ("reward", "words", "unfinished")}
    names["rest/kept"] = "kept"  # not of the first step
    rows: list[dict[str, Cell]] = []
    for number, step in enumerate(steps):
        measured = {n: step.result[key] for n, key in names.items() if key in step.result}
        rows.append({"step": number, **measured})
    write_table(folder / "history.csv", ["step", *names], rows)
