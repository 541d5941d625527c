"""How the reward step grows with response length, responses a prompt and batch, beside its floor."""

from __future__ import annotations

import statistics
import time

import torch
from device import Place
from growth import PROMPT, Point, cases, operations
from timing import gemm_rate

from rlaif_pl import ops
from rlaif_pl.engine.response_batch import ResponseBatch, assemble
from rlaif_pl.models import BackboneOptions, RewardModel

RESPONSE, PER_PROMPT, PROMPTS = 40, 2, 4  # where another one varies
SWEEPS = {
    "response tokens": [(n, PER_PROMPT, PROMPTS) for n in (20, 40, 80, 160, 320)],
    "responses a prompt": [(RESPONSE, n, PROMPTS) for n in (2, 4, 8, 16)],
    "prompts a step": [(RESPONSE, PER_PROMPT, n) for n in (1, 2, 4, 8, 16)],
}
REPEATS = 3


def grow(num_layers: int, place: Place, factor: int = 1, sizes: int | None = None) -> list[Point]:
    """Time whole training steps (forward, backward, AdamW) on random tokens, all weights trained.

    Args:
        num_layers: First layers that are kept.
        place: Where; 16 bits are by autocast, over float32 weights.
        factor: How many times as many prompts a step takes.
        sizes: Only the first of each sweep.
    """
    reward = RewardModel(BackboneOptions(num_layers=num_layers)).to(place.device)
    trained = [p for p in reward.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    step(reward, optimizer, batch_of(RESPONSE, PER_PROMPT, factor, place), place)
    points = []
    for sweep, size, case in cases(SWEEPS, factor, sizes):
        batch = batch_of(*case, place)
        if place.is_cuda:  # the first step of a size waits for memory and the choice of kernels
            step(reward, optimizer, batch, place)
        seconds, rates = [], []
        for _ in range(REPEATS):
            rates.append(gemm_rate(place))
            began = time.perf_counter()
            step(reward, optimizer, batch, place)
            seconds.append(time.perf_counter() - began)
        work = operations(reward.model.top, batch, ends_only=True)
        floor = work / statistics.median(rates)
        pairs = len(batch.continuations) // 2
        points.append(Point(sweep, size, pairs, statistics.median(seconds), floor))
    return points


def batch_of(response: int, num_generations: int, prompts: int, place: Place) -> ResponseBatch:
    """Make texts of given lengths from random tokens."""
    generator = torch.Generator().manual_seed(0)

    def row(length: int) -> list[int]:
        return torch.randint(10, 40_000, (length,), generator=generator).tolist()

    texts = [row(response) for _ in range(prompts * num_generations)]
    return assemble([row(PROMPT) for _ in range(prompts)], texts, pad=0, device=place.device)


def step(
    reward: RewardModel, optimizer: torch.optim.Optimizer, batch: ResponseBatch, place: Place
) -> None:
    """Train on neighbors as pairs, the first of which is better; returns when it is done."""
    with place.autocast():
        first, second = reward.rewards(batch).view(-1, 2).unbind(1)
        loss = ops.pairwise_ce_sums(first, second, torch.ones_like(first)).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    place.synchronize()
