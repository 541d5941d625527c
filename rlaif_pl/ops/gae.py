"""Generalized advantage estimation over rows of unequal length.

Left out of the algorithm: several episodes in one row. A row is one trajectory, padded at the
right.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlaif_pl.ops._checks import FLOATING, check, rows_or_whole
from rlaif_pl.ops._library import has_values


@torch.library.register_fake("rlaif_pl::gae")
def _(
    rewards: Tensor,
    values: Tensor,
    lengths: Tensor,
    bootstrap: Tensor,
    gamma: float,
    gae_lambda: float,
) -> tuple[Tensor, Tensor]:
    torch._check(rewards.dim() == 2)
    torch._check(values.shape == rewards.shape)
    torch._check(lengths.shape == rewards.shape[:1])
    torch._check(bootstrap.shape == rewards.shape[:1])
    return rewards.new_empty(rewards.shape), rewards.new_empty(rewards.shape)


def gae(
    rewards: Tensor,
    values: Tensor,
    *,
    lengths: Tensor | None = None,
    is_response: Tensor | None = None,
    bootstrap: Tensor | None = None,
    gamma: float = 1.0,
    gae_lambda: float = 0.95,
) -> tuple[Tensor, Tensor]:
    """Estimate advantages and value targets for a batch of trajectories padded at the right.

    With ``V[L] = bootstrap`` after the last of ``L`` valid steps and ``A[L] = 0``::

        delta[t] = r[t] + gamma * V[t + 1] - V[t]
        A[t]     = delta[t] + gamma * gae_lambda * A[t + 1]
        returns  = A + V

    Source: Schulman et al. 2016, https://arxiv.org/abs/1506.02438, eq. 11, 12 and 16.

    float32 and float64 are computed natively, bfloat16 and float16 in float32 and rounded once.
    What padding holds, NaN included, has no effect; a NaN or infinity at a valid step reaches that
    step and the earlier ones of its row, nothing else.

    Args:
        rewards: Reward received after the action at step t, in reward-model units. ``(N, T)``
        values: Critic estimate of the state before the action at step t. ``(N, T)``
        lengths: Valid steps of each row, in [0, T]; None means T, or what ``is_response`` says.
            On a GPU the range is not looked at (that would wait for the device): a length outside
            it acts as the nearer bound. ``(N,)`` int64
        is_response: Instead of ``lengths``: True at valid steps, a run from step 0. Looking at it
            waits for a GPU; pass ``lengths`` where that matters. ``(N, T)`` bool
        bootstrap: Value of the state after the last valid step: 0 where the text ended, the
            critic's estimate where it was cut at the length limit. None means 0. ``(N,)``
        gamma: Discount per token, in [0, 1].
        gae_lambda: Trace decay, in [0, 1]; 0 gives one-step TD, 1 gives Monte Carlo returns.

    Returns:
        ``(advantages, returns)``, each ``(N, T)`` in the dtype of ``rewards``, zero at padding.
        Not differentiable: both are targets, so neither requires a gradient.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit; a length, ``gamma`` or ``gae_lambda`` is out
            of range; ``is_response`` has a gap; both ``lengths`` and ``is_response`` are given.
    """
    check("gae", "rewards", rewards, ("N", "T"), FLOATING)
    check("gae", "values", values, rewards.shape, (rewards.dtype,), rewards)
    check_coefficients("gae", gamma, gae_lambda)
    if is_response is not None:
        if lengths is not None:
            raise ValueError("gae: got both lengths and is_response; pass one of them")
        lengths = _lengths_of_prefix(is_response, rewards)
    lengths, bootstrap = rows_or_whole("gae", rewards, lengths, bootstrap)
    return torch.ops.rlaif_pl.gae.default(rewards, values, lengths, bootstrap, gamma, gae_lambda)


def check_coefficients(op: str, gamma: float, gae_lambda: float) -> None:
    """Refuse a discount or trace decay outside [0, 1]."""
    for name, coefficient in (("gamma", gamma), ("gae_lambda", gae_lambda)):
        if not 0.0 <= coefficient <= 1.0:
            raise ValueError(f"{op}: {name} must lie in [0, 1], got {coefficient}")


def _lengths_of_prefix(is_response: Tensor, rewards: Tensor) -> Tensor:
    """Count the True entries of each row after checking that they are a run from step 0."""
    check("gae", "is_response", is_response, rewards.shape, (torch.bool,), rewards)
    if has_values(is_response):
        has_gap = (is_response[:, 1:] & ~is_response[:, :-1]).any(dim=1)
        if has_gap.any():
            row = int(has_gap.int().argmax())
            raise ValueError(
                f"gae: is_response must be True up to some step and False after it; row {row} has "
                "a True after a False; drop prompt columns and pad at the right"
            )
    return is_response.sum(dim=1)
