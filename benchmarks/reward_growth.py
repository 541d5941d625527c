"""How the reward step grows with response length, responses a prompt and batch, beside its floor."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch

from rlaif_pl import ops
from rlaif_pl.models import BackboneOptions, RewardModel
from rlaif_pl.models.encoding import PrefixBatch, assemble

PROMPT = 350  # tokens, about the mean of TL;DR posts
RESPONSE, PER_PROMPT, PROMPTS = 40, 2, 4  # where another one varies
SWEEPS = {
    "response tokens": [(n, PER_PROMPT, PROMPTS) for n in (20, 40, 80, 160, 320)],
    "responses a prompt": [(RESPONSE, n, PROMPTS) for n in (2, 4, 8, 16)],
    "prompts a step": [(RESPONSE, PER_PROMPT, n) for n in (1, 2, 4, 8, 16)],
}
PLACE = {name: n for n, name in enumerate(SWEEPS)}
REPEATS = 3


class Point(NamedTuple):
    """One measurement.

    Attributes:
        sweep: What varies.
        size: Its value.
        pairs: Pairs a step, half the responses.
        seconds: Median of a step.
        floor: Seconds that its matrix products take at the measured rate.
    """

    sweep: str
    size: int
    pairs: int
    seconds: float
    floor: float

    @property
    def name(self) -> str:
        """Say which it is."""
        return f"{self.sweep} {self.size}"

    @property
    def share(self) -> float:
        """Share of the floor's speed that is reached."""
        return self.floor / self.seconds


def grow(num_layers: int) -> list[Point]:
    """Time whole training steps (forward, backward, AdamW) on random tokens, all weights trained."""
    reward = RewardModel(BackboneOptions(num_layers=num_layers))
    trained = [p for p in reward.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    step(reward, optimizer, batch_of(RESPONSE, PER_PROMPT, 1))
    points = []
    for sweep, sizes in SWEEPS.items():
        for size in sizes:
            batch = batch_of(*size)
            seconds, rates = [], []
            for _ in range(REPEATS):
                rates.append(gemm_rate())
                began = time.perf_counter()
                step(reward, optimizer, batch)
                seconds.append(time.perf_counter() - began)
            floor = operations(reward, batch) / statistics.median(rates)
            pairs = len(batch.ids) // 2
            point = Point(sweep, size[PLACE[sweep]], pairs, statistics.median(seconds), floor)
            points.append(point)
    return points


def batch_of(response: int, per_prompt: int, prompts: int) -> PrefixBatch:
    """Make texts of given lengths from random tokens."""
    generator = torch.Generator().manual_seed(0)

    def row(length: int) -> list[int]:
        return torch.randint(10, 40_000, (length,), generator=generator).tolist()

    texts = [row(response) for _ in range(prompts * per_prompt)]
    return assemble([row(PROMPT) for _ in range(prompts)], texts, pad=0)


def step(reward: RewardModel, optimizer: torch.optim.Optimizer, batch: PrefixBatch) -> None:
    """Train on neighbors as pairs, the first of which is better."""
    first, second = reward.rewards(batch).view(-1, 2).unbind(1)
    ops.pairwise_ce_sums(first, second, torch.ones_like(first)).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def operations(reward: RewardModel, batch: PrefixBatch) -> float:
    """Count the multiplications and additions that a step cannot do without.

    A weight takes 2 a token forward and 4 backward; a key that a token sees takes 4 a channel (scores
    and weighted sum) and 8. The last MLP is needed at the ends of responses only.
    """
    config = reward.model.config
    layers = reward.model.top.decoder.layers
    matrices = [sum(p.numel() for p in layer.parameters() if p.dim() == 2) for layer in layers]
    last_mlp = sum(p.numel() for p in layers[-1].mlp.parameters())
    tokens = int(batch.prefix_is_real.sum() + batch.is_real.sum())
    seen = 0
    for group, prefix in enumerate(batch.prefix_is_real.sum(1).tolist()):
        seen += prefix * (prefix + 1) // 2
        rows = slice(group * batch.per_prefix, (group + 1) * batch.per_prefix)
        for own in batch.is_real[rows].sum(1).tolist():
            seen += own * prefix + own * (own + 1) // 2
    width = config.num_attention_heads * layers[0].self_attn.head_dim
    linear = 6 * (sum(matrices) * tokens - last_mlp * (tokens - len(batch.ids)))
    return float(linear + 12 * width * len(layers) * seen)


def gemm_rate(size: int = 2048, repeats: int = 3) -> float:
    """Float32 operations a second of a large matrix product, the best of a few."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = 0.0
    for _ in range(repeats):
        began = time.perf_counter()
        torch.mm(a, b)
        best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def show(points: list[Point]) -> None:
    """Print the table."""
    print(f"{'':24s} {'pairs/s':>10s} {'s a step':>10s} {'floor, s':>10s} {'share':>7s}")
    for p in points:
        rate = p.pairs / p.seconds
        print(f"{p.name:24s} {rate:10.3f} {p.seconds:10.2f} {p.floor:10.2f} {p.share:7.0%}")


def draw(points: list[Point], file: Path) -> None:
    """Write a picture with one panel a sweep."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axes, sweep in zip(figure.subplots(1, len(SWEEPS)), SWEEPS, strict=True):
        own = [p for p in points if p.sweep == sweep]
        sizes = [p.size for p in own]
        axes.plot(sizes, [p.pairs / p.floor for p in own], "--", color="0.5", label="floor")
        axes.plot(sizes, [p.pairs / p.seconds for p in own], "o-", label="measured")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_ylim(bottom=0)
        axes.set_xlabel(sweep)
        axes.set_ylabel("pairs/s")
    axes.legend()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    show(grow(num_layers=8))
