"""``evaluate alignment|reward|policy``: what to believe of a labeler, a reward, a policy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from rlaif_pl.data.sources import DataSource, load_preferences, load_prompts
from rlaif_pl.evaluation.alignment import measure_alignment
from rlaif_pl.evaluation.gate import check_gate
from rlaif_pl.evaluation.judges import EmbeddingJudge
from rlaif_pl.evaluation.metrics import write_metrics
from rlaif_pl.evaluation.policy import evaluate_policy, references_of
from rlaif_pl.evaluation.policy_report import PolicySamples
from rlaif_pl.evaluation.reward_accuracy import measure_reward
from rlaif_pl.labeling.registry import build_labeler
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.encoding import assemble, encode_prompts
from rlaif_pl.models.policy import BackboneOptions, load_policy
from rlaif_pl.rl.generate import Responses, generate
from rlaif_pl.text import Template
from rlaif_pl.types import Labeler, Prompt, Reward

KL_ROWS = 8  # prompts scored at once


def alignment(
    data: DataSource | str,
    labeler: Labeler | str = "likelihood",
    confidence: list[int] | None = None,
    limit: int | None = None,
    out: str | None = None,
    gate: Literal["warn", "stop", "off"] = "warn",
    min_alignment: float = 0.6,
    draws: int = 2000,
    seed: int = 0,
) -> int:
    """Measure how often a labeler agrees with people, beside the length rule.

    Args:
        data: Pairs judged by people.
        labeler: ``likelihood``, ``pairwise``, or a class with its arguments.
        confidence: Keep only OpenAI comparisons with these confidences (1 2 8 9 are the strong ones).
        limit: Keep the first so many pairs.
        out: Folder for metrics.json; None only prints.
        gate: What to do where the labeler falls short: ``warn``, ``stop`` (exit non-zero) or ``off``.
        min_alignment: Least agreement with people, in [0, 1].
        draws: Bootstrap resamples.
        seed: Seeds the bootstrap.
    """
    source = DataSource(data) if isinstance(data, str) else data
    if confidence is not None or limit is not None:
        source = narrowed(source, confidence, limit)
    judge = build_labeler(labeler)
    report = measure_alignment(judge, load_preferences(source).rows, draws=draws, seed=seed)
    report.render(Console())
    if out is not None:
        write(out, report.to_metrics("labeler"))
    if gate != "off":
        check_gate(report, min_alignment, action=gate)
    return 0


def narrowed(source: DataSource, confidence: list[int] | None, limit: int | None) -> DataSource:
    """Return the source with further filters laid over its own."""
    changes = {"confidence": confidence, "limit": limit}
    given = {name: value for name, value in changes.items() if value is not None}
    return DataSource(**{**vars(source), **given})


def reward(
    reward: Reward,
    gold: DataSource | str,
    out: str,
    ai_labeled: DataSource | str | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> int:
    """Measure a reward's pair accuracy and calibration against people.

    Args:
        reward: Reward to measure.
        gold: Pairs judged by people.
        out: Folder for metrics.json and reliability.json.
        ai_labeled: Pairs labeled by an AI that the reward was not trained on.
        draws: Bootstrap resamples.
        seed: Seeds the bootstrap.
    """
    machine = load_preferences(ai_labeled).rows if ai_labeled is not None else []
    report = measure_reward(reward, load_preferences(gold).rows, machine, draws=draws, seed=seed)
    report.render(Console())
    report.write(out)
    write(out, report.to_metrics("reward"))
    return 0


def policy(
    policy: BackboneOptions,
    sft: BackboneOptions,
    reward: Reward,
    prompts: DataSource | str,
    out: str,
    labeler: Labeler | str = "likelihood",
    independent: bool = True,
    template: Template = Template(),  # noqa: B008 - frozen
    samples_per_prompt: int = 4,
    max_new_tokens: int = 64,
    temperature: float = 0.9,
    batch_size: int = 16,
    draws: int = 2000,
    seed: int = 0,
) -> int:
    """Compare a trained policy with the SFT policy it came from, on the same prompts.

    Args:
        policy: Policy after reinforcement learning.
        sft: Policy before it.
        reward: The reward it was trained on.
        prompts: Evaluation prompts, with references where there are any.
        out: Folder for metrics.json, samples.jsonl and win_rates.json.
        labeler: The labeler whose labels trained the reward.
        independent: Also ask a judge that trained nothing here (sentence embeddings).
        template: How prompts and responses are written.
        samples_per_prompt: Responses of each policy to each prompt.
        max_new_tokens: Length limit of a response, EOS included.
        temperature: Divides the logits of both policies.
        batch_size: Prompts at a time.
        draws: Bootstrap resamples.
        seed: Seeds sampling and bootstrap.
    """
    started = time.monotonic()
    rows = load_prompts(prompts)
    settings = {
        "per_prompt": samples_per_prompt,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "batch_size": batch_size,
        "seed": seed,
    }
    before, after = load_policy(sft, template), load_policy(policy, template)
    old = generate(before, rows, title="sampling from SFT", **settings)  # type: ignore[arg-type]
    new = generate(after, rows, title="sampling from policy", **settings)  # type: ignore[arg-type]
    kl = kl_by_prompt(after, before, rows, new, temperature)
    del before, after
    report = evaluate_policy(
        PolicySamples(rows, old.texts, new.texts, old.unfinished, new.unfinished, kl),
        reward,
        build_labeler(labeler),
        EmbeddingJudge(references_of(rows)) if independent else None,
        draws=draws,
        seed=seed,
    )
    report.render(Console())
    report.write(out)
    write(out, report.to_metrics() | {"evaluate/seconds": time.monotonic() - started})
    return 0


@torch.no_grad()
def kl_by_prompt(
    policy: CausalModel,
    reference: CausalModel,
    prompts: list[Prompt],
    responses: Responses,
    temperature: float,
) -> list[float]:
    """Estimate the KL from the reference in nats a response, mean over each prompt's responses.

    Both are scored at the sampling temperature; the estimate is the log-ratio of what was sampled.
    """
    result = []
    for start in range(0, len(prompts), KL_ROWS):
        part = slice(start, start + KL_ROWS)
        rows = encode_prompts(policy.tokenizer, policy.template, [p.text for p in prompts[part]])
        tokens = [row for group in responses.tokens[part] for row in group]
        batch = assemble(rows, tokens, policy.pad).to(policy.device)
        scale = temperature or 1.0
        ratio = policy.logprobs(batch, None, scale) - reference.logprobs(batch, None, scale)
        result += ratio.sum(1).view(len(rows), -1).mean(1).tolist()
    return result


def write(out: str, metrics: dict[str, float]) -> None:
    """Write OUT/metrics.json, making the folder."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_metrics(folder / "metrics.json", metrics)
