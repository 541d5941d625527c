"""``evaluate reward|policy``: what to believe of a reward and of a policy."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from rlaif_pl.data.sources import DataSource, is_sensitive, load_preferences, load_prompts
from rlaif_pl.engine.response_batch import assemble
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.evaluation.judges import EmbeddingJudge
from rlaif_pl.evaluation.metrics import write_metrics
from rlaif_pl.evaluation.policy import evaluate_policy, references_of
from rlaif_pl.evaluation.policy_report import PolicySamples
from rlaif_pl.evaluation.reward_accuracy import measure_reward
from rlaif_pl.labeling.registry import build_labeler
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.device import on_device, put, resolve_device
from rlaif_pl.models.policy import BackboneOptions, load_policy
from rlaif_pl.rl.generate import Responses, generate
from rlaif_pl.rl.kl import log_ratio
from rlaif_pl.text import Template
from rlaif_pl.types import Labeler, Prompt, Reward

KL_ROWS = 8  # prompts scored at once


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
        device: Where models compute: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:N``
            or ``mps``.
    """
    machine = load_preferences(ai_labeled).rows if ai_labeled is not None else []
    put(reward, resolve_device(device))
    report = measure_reward(reward, load_preferences(gold).rows, machine, draws=draws, seed=seed)
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
    independent: bool = True,
    template: Template = Template(),  # noqa: B008 - frozen
    sampling: SamplingParams = SamplingParams(n=4, temperature=0.9),  # noqa: B008 - frozen
    batch_size: int = 16,
    draws: int = 2000,
    seed: int = 0,
    show_text: bool | None = None,
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
        independent: Also ask a judge that trained nothing here (sentence embeddings).
        template: How prompts and responses are written.
        sampling: How each policy responds, ``n`` times to each prompt; once greedily besides.
        batch_size: Prompts at a time.
        draws: Bootstrap resamples.
        seed: Seeds sampling and bootstrap.
        show_text: Whether samples.jsonl, which the report shows, holds texts or their hashes; None
            shows them unless the prompts are sensitive (harmful requests).
        device: Where models compute: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:N``
            or ``mps``.
    """
    started = time.monotonic()
    rows = load_prompts(prompts)
    params = sampling.seeded(seed)
    place = resolve_device(device)
    before, after = (load_policy(each, template).to(place) for each in (sft, policy))
    sampled = _samples(after, before, rows, params, batch_size)
    likeliest = replace(params, n=1, temperature=0.0)
    greedy = None if likeliest == params else _samples(after, before, rows, likeliest, batch_size)
    del before, after
    measure = partial(
        evaluate_policy,
        reward=put(reward, place),
        labeler=build_labeler(labeler),
        independent=EmbeddingJudge(references_of(rows)) if independent else None,
        draws=draws,
        seed=seed,
    )
    report = replace(measure(sampled), greedy=None if greedy is None else measure(greedy))
    report.render(Console())
    report.write(out, show_text=not is_sensitive(prompts) if show_text is None else show_text)
    write(out, report.to_metrics() | {"evaluate/seconds": time.monotonic() - started})
    return 0


def _samples(
    policy: CausalModel,
    sft: CausalModel,
    prompts: list[Prompt],
    params: SamplingParams,
    batch_size: int,
) -> PolicySamples:
    """Let both respond to the prompts, and measure the KL of what the policy says."""
    how = "greedily" if params.temperature == 0 else "sampling"
    old = generate(sft, prompts, params, batch_size=batch_size, title=f"{how} from SFT")
    new = generate(policy, prompts, params, batch_size=batch_size, title=f"{how} from policy")
    kl = kl_by_prompt(policy, sft, prompts, new, params)
    return PolicySamples(prompts, old.texts, new.texts, old.unfinished, new.unfinished, kl)


@torch.no_grad()
def kl_by_prompt(
    policy: CausalModel,
    reference: CausalModel,
    prompts: list[Prompt],
    responses: Responses,
    params: SamplingParams,
) -> list[float]:
    """Estimate the KL from the reference in nats a response, mean over each prompt's responses.

    Both are scored at the sampling temperature, and over the tokens that the policy's filters kept; the
    estimate is the log-ratio of what was sampled.
    """
    result = []
    for start in range(0, len(prompts), KL_ROWS):
        part = slice(start, start + KL_ROWS)
        rows = policy.encode_prompts([prompt.text for prompt in prompts[part]])
        tokens = [row for group in responses.tokens[part] for row in group]
        batch = assemble(rows, tokens, policy.pad).to(policy.device)
        ratio = log_ratio(policy, reference, batch, params.scored)
        result += ratio.sum(1).view(len(rows), -1).mean(1).tolist()
    return result


def write(out: str, metrics: dict[str, float]) -> None:
    """Write OUT/metrics.json, making the folder."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_metrics(folder / "metrics.json", metrics)
