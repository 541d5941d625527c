"""``evaluate reward|policy``: what to believe of a reward and of a policy."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from rich.console import Console

from rlaif_pl.api import report_on, sample_both
from rlaif_pl.data.metric_files import write_metrics
from rlaif_pl.data.sources import DataSource, is_sensitive, load_preferences, load_prompts
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.evaluation.reward_accuracy import measure_reward
from rlaif_pl.evaluation.samples import PolicyReporting
from rlaif_pl.labeling.registry import build_labeler
from rlaif_pl.models.device import on_device, put, resolve_device
from rlaif_pl.models.policy import BackboneOptions, load_policy
from rlaif_pl.rl.generate import DrawingOptions
from rlaif_pl.rl.reward_columns import check_columns
from rlaif_pl.statistics import Estimator
from rlaif_pl.text import Template
from rlaif_pl.types import Labeler, Reward


@on_device
def reward(
    reward: Reward,
    gold: DataSource | str,
    out: str,
    ai_labeled: DataSource | str | None = None,
    draws: int = 2000,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Measure a reward's pair accuracy and calibration against people.

    Args:
        reward: Reward to measure.
        gold: Pairs judged by people.
        out: Folder for metrics.json and reliability.json.
        ai_labeled: Pairs labeled by an AI that the reward was not trained on.
        draws: Bootstrap resamples.
        seed: Seeds the bootstrap.
        device: Where models compute: ``auto`` (a GPU if any), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """
    machine = load_preferences(ai_labeled).rows if ai_labeled is not None else []
    put(reward, resolve_device(device))
    people, estimator = load_preferences(gold).rows, Estimator(draws, seed)
    report = measure_reward(reward, people, machine, estimator=estimator)
    report.render(Console())
    report.write(out)
    write(out, report.to_metrics("reward"))
    return 0


@on_device
def policy(
    policy: BackboneOptions,
    sft: BackboneOptions,
    reward: Reward,
    prompts: DataSource | str,
    out: str,
    labeler: Labeler | str = "likelihood",
    template: Template | None = None,
    sampling: SamplingParams = SamplingParams(n=4, temperature=0.9),  # noqa: B008 - frozen
    drawing: DrawingOptions = DrawingOptions(),  # noqa: B008 - frozen
    seed: int = 0,
    reporting: PolicyReporting = PolicyReporting(),  # noqa: B008 - frozen
    device: str = "auto",
) -> int:
    """Compare a trained policy with the SFT policy it came from, on the same prompts.

    Args:
        policy: Policy after reinforcement learning.
        sft: Policy before it.
        reward: The reward it was trained on.
        prompts: Evaluation prompts, with references where there are any.
        out: Folder for metrics.json, samples.jsonl, win_rates.json and verdicts.jsonl.
        labeler: The labeler whose labels trained the reward.
        template: How texts are written, `chat` or keys (`--template.help`); default: as a folder says.
        sampling: How each policy responds, ``n`` times to each prompt; once greedily besides.
        drawing: How many prompts at a time, and who draws; servers serve the SFT policy, and the policy
            is then a folder of adapters on it.
        seed: Seeds sampling and bootstrap.
        reporting: Intervals, judges beside the labeler, texts.
        device: Where models compute: ``auto`` (a GPU if any), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """
    started = time.monotonic()
    rows = load_prompts(prompts)
    check_columns(reward, rows)
    place = resolve_device(device)
    before, after = (load_policy(each, template).to(place) for each in (sft, policy))
    both = partial(sample_both, batch_size=drawing.batch_size, generator=drawing.generator)
    sampled, greedy = both(after, before, rows, sampling, seed=seed)
    del before, after  # make room for the judges
    judge, paid = build_labeler(labeler), put(reward, place)
    other, estimator = reporting.independent, Estimator(reporting.draws, seed)
    report = report_on(sampled, greedy, paid, judge, other, estimator)
    report.render(Console())
    report.write(out, show_text=reporting.shows(is_sensitive(prompts)))
    write(out, report.to_metrics() | {"evaluate/seconds": time.monotonic() - started})
    return 0


def write(out: str, metrics: dict[str, float]) -> None:
    """Write OUT/metrics.json, making the folder."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_metrics(folder / "metrics.json", metrics)
