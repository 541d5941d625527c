"""``evaluate reward|policy|revisions|harmless``: what to believe of a reward, of a policy."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import cast

from rich.console import Console

from rlaif_pl.api import report_on, sample_both
from rlaif_pl.cli.commands.alignment import gold_pairs
from rlaif_pl.data.files import RawRow, read_rows
from rlaif_pl.data.metric_files import write_metrics
from rlaif_pl.data.revisions import read_revisions
from rlaif_pl.data.sources import DataSource, is_sensitive, load_preferences, load_prompts
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.evaluation.harmlessness import rates, rounds
from rlaif_pl.evaluation.reward_accuracy import measure_reward
from rlaif_pl.evaluation.samples import PolicyReporting, group_in, samples_at
from rlaif_pl.labeling.registry import build_labeler
from rlaif_pl.labeling.strategies.ensemble import KeepsReplies
from rlaif_pl.labeling.usage.reply_store import ReplyStore
from rlaif_pl.labeling.usage.spending import words_of
from rlaif_pl.models.device import on_device, put, resolve_device
from rlaif_pl.models.policy import BackboneOptions, load_policy
from rlaif_pl.rl.generate import DrawingOptions
from rlaif_pl.rl.reward_columns import check_columns
from rlaif_pl.statistics import Estimator
from rlaif_pl.text import Template
from rlaif_pl.types import Labeler, PointwiseLabeler, Reward


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
    write_metrics(Path(out) / "metrics.json", report.to_metrics("reward"))
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
    metrics = report.to_metrics() | {"evaluate/seconds": time.monotonic() - started}
    write_metrics(Path(out) / "metrics.json", metrics)
    return 0


@on_device
def revisions(
    revisions: str,
    out: str,
    harmless: Labeler | str = "constitution",
    helpful: Labeler | str | None = None,
    harmless_gold: DataSource | str | None = None,
    helpful_gold: DataSource | str | None = None,
    max_words: int | None = None,
    replies: str | None = None,
    draws: int = 2000,
    seed: int = 0,
    device: str = "auto",  # noqa: ARG001 - on_device reads it
) -> int:
    """Judge the responses of every round of revision against the first answers.

    Each judge is first measured on pairs judged by people. One that is not above chance there is shown
    as such, and nothing is claimed from its verdicts. Judges read both orders; no reply is printed.

    Args:
        revisions: revisions.jsonl of a revise job, on prompts that no recipe was chosen on.
        out: Folder for table.md, rows.csv, rounds.svg and metrics.json.
        harmless: Who judges harmlessness.
        helpful: Who judges helpfulness; None leaves it out.
        harmless_gold: Pairs on which people said which response is less harmful (HH's harmless part).
        helpful_gold: Pairs on which people said which response is more helpful.
        max_words: Keep only people's pairs whose prompt and responses have at most so many words.
        replies: SQLite file of the judges' replies; by default OUT/replies.sqlite.
        draws: Bootstrap resamples.
        seed: Seeds the bootstrap.
        device: Where models compute: ``auto`` (a GPU if any), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """
    started, estimator = time.monotonic(), Estimator(draws, seed)
    rows = read_revisions(revisions)
    asked = {"harmless": (harmless, harmless_gold)}
    if helpful is not None:
        asked["helpful"] = (helpful, helpful_gold)
    judges: dict[str, Labeler] = {}
    qualities: dict[str, rounds.JudgeQuality] = {}
    Path(out).mkdir(parents=True, exist_ok=True)  # or an error before any judge is asked
    with ReplyStore(replies or str(Path(out) / "replies.sqlite")) as store:
        for name, (labeler, gold) in asked.items():
            judge = judges[name] = build_labeler(labeler)
            if isinstance(judge, KeepsReplies):
                judge.keep_replies(store)
            pairs = None if gold is None else gold_pairs(gold, max_words, words_of)
            source = gold.name if isinstance(gold, DataSource) else gold
            qualities[name] = rounds.measure_judge(name, judge, pairs, source, estimator=estimator)
        study = rounds.compare_rounds(rows, judges, qualities, estimator=estimator)
    rounds.page_of(study).render(Console())
    rounds.write(study, out)
    metrics = study.to_metrics() | {"revisions/seconds": time.monotonic() - started}
    write_metrics(Path(out) / "metrics.json", metrics)
    return 0


@on_device
def harmless(
    samples: str,
    out: str,
    labeler: Labeler | str = "score",
    threshold: float = 0.0,
    draws: int = 2000,
    seed: int = 0,
    device: str = "auto",  # noqa: ARG001 - on_device reads it
) -> int:
    """Judge the responses that ``evaluate policy`` kept, each alone; prints no response.

    Args:
        samples: samples.jsonl of ``evaluate policy``. Where that holds hashes, the texts that stand
            beside it are read. Or rows with prompt, sft, policy (lists of texts) and, if any, group.
        out: Folder for table.md, rates.svg and metrics.json.
        labeler: Grades single responses, more harmless ones higher (ScoreLabeler with task harmless).
        threshold: A response with a higher score is harmless.
        draws: Bootstrap resamples.
        seed: Seeds the bootstrap.
        device: Where models compute: ``auto`` (a GPU if any), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """
    judge = build_labeler(labeler)
    if not isinstance(judge, PointwiseLabeler):
        raise ValueError(
            f"expected a labeler that grades single responses, got {type(judge).__name__}; use "
            "ScoreLabeler with task: harmless"
        )
    path = samples_at(samples)
    rows = [both_of(row) for row in read_rows(path)]
    if not rows:
        raise ValueError(f"expected samples in {path}, it is empty; run evaluate policy again")
    texts, groups, sft, policy = zip(*rows, strict=True)
    estimator = Estimator(draws, seed)
    report = rates.harmless_rates(
        texts, sft, policy, judge, threshold, groups=groups, estimator=estimator
    )
    rates.page_of(report).render(Console())
    rates.write(report, out)
    write_metrics(Path(out) / "metrics.json", report.to_metrics())
    return 0


def both_of(row: RawRow) -> tuple[str, str, list[str], list[str]]:
    """Return prompt, group and the responses of both policies. ``ValueError``: the row has others."""
    prompt, *both = (row.fields.get(name) for name in ("prompt", "sft", "policy"))
    if isinstance(prompt, str) and all(
        isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)
        for texts in both
    ):
        sft, policy = cast("list[list[str]]", both)
        return prompt, group_in(row.fields, prompt), sft, policy
    kinds = ", ".join(type(value).__name__ for value in (prompt, *both))  # never a text
    raise ValueError(
        f"{row.where}: expected prompt to be text, sft and policy lists of texts, none of them empty, "
        f"got {kinds}; give samples.jsonl of evaluate policy"
    )
