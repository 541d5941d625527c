"""A logistic fit on frozen states, to start a reward head from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from rlaif_pl.models.reward import RewardModel
from rlaif_pl.types import Preference

PROBE_ROWS = 16  # pairs computed at once
ITERATIONS = 200  # of L-BFGS, which converges in far fewer


@torch.no_grad()
def _pair_differences(reward: RewardModel, pairs: Sequence[Preference]) -> Tensor:
    """Difference of the states the head reads of both responses. ``(N, D)`` float32, on the CPU."""
    order = sorted(range(len(pairs)), key=lambda n: len(pairs[n].prompt))
    result = torch.empty(len(pairs), reward.head.in_features)
    chunks = [order[n : n + PROBE_ROWS] for n in range(0, len(order), PROBE_ROWS)]
    for rows in track(chunks, description="probing"):
        responses = [[pairs[n].first, pairs[n].second] for n in rows]
        batch = reward.encode([pairs[n].prompt for n in rows], responses)
        first, second = reward.features(batch).view(len(rows), 2, -1).unbind(1)
        result[rows] = (first - second).cpu()
    return result


def fit_probe(differences: Tensor, target: Tensor, weight: Tensor, penalty: float) -> Tensor:
    """Weights ``w`` that minimize ``mean CE(sigma(w . d), p) + penalty * |w * std(d)|^2``. ``(D,)``.

    ``d`` are states of the first minus states of the second response ``(N, D)``, ``p`` how likely the
    first is better ``(N,)``; each pair has a weight ``(N,)``.
    """
    scale = differences.std(0).clamp(min=1e-6)
    inputs = differences / scale
    probe = torch.zeros(differences.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([probe], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = F.binary_cross_entropy_with_logits(inputs @ probe, target, reduction="none")
        loss = (losses * weight).sum() / weight.sum() + penalty * probe.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[arg-type]
    return probe.detach() / scale


def probe(reward: RewardModel, pairs: Sequence[Preference], penalty: float) -> Tensor:
    """Return a head weight ``(1, D)`` fitted on labeled pairs."""
    differences = _pair_differences(reward, pairs)
    target = torch.tensor([float(pair.p_first or 0.0) for pair in pairs])
    weight = torch.tensor([pair.weight for pair in pairs])
    return fit_probe(differences, target, weight, penalty)[None]
