"""Generalized advantage estimation over rows of unequal length.

Left out of the algorithm: several episodes in one row. A row is one trajectory, padded at the
right.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlaif_pl.ops._library import has_values

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


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
    check_trajectories("gae", "rewards", rewards, "values", values)
    check_coefficients("gae", gamma, gae_lambda)
    if is_response is not None:
        if lengths is not None:
            raise ValueError("gae: got both lengths and is_response; pass one of them")
        lengths = _lengths_of_prefix(is_response, rewards)
    elif lengths is None:
        lengths = rewards.new_full(rewards.shape[:1], rewards.shape[1], dtype=torch.int64)
    else:
        check_per_row("gae", "lengths", lengths, torch.int64, "rewards", rewards)
        check_length_range("gae", lengths, rewards.shape[1])
    if bootstrap is None:
        bootstrap = rewards.new_zeros(rewards.shape[:1])
    else:
        check_per_row("gae", "bootstrap", bootstrap, rewards.dtype, "rewards", rewards)
    return torch.ops.rlaif_pl.gae.default(rewards, values, lengths, bootstrap, gamma, gae_lambda)


def check_trajectories(op: str, first_name: str, first: Tensor, name: str, other: Tensor) -> None:
    """Refuse two tensors that are not one number a token each; ``op`` starts the message."""
    if first.dim() != 2:
        raise ValueError(
            f"{op}: {first_name} must be (N, T), got {tuple(first.shape)}; add the missing dimension"
        )
    if first.dtype not in FLOATING:
        raise ValueError(
            f"{op}: {first_name} must be float32, float64, bfloat16 or float16, got {first.dtype}; "
            "cast with .float()"
        )
    if other.shape != first.shape:
        raise ValueError(
            f"{op}: {name} must have the shape of {first_name} {tuple(first.shape)}, got "
            f"{tuple(other.shape)}; both hold one number per token"
        )
    _check_like(f"{op}: {name}", other, first.dtype, first_name, first)


def check_per_row(
    op: str, name: str, row: Tensor, dtype: torch.dtype, first_name: str, first: Tensor
) -> None:
    """Refuse a tensor that is not one number a row of ``first``."""
    if row.shape != first.shape[:1]:
        raise ValueError(
            f"{op}: {name} must be ({first.shape[0]},), one entry a row of {first_name}, got "
            f"{tuple(row.shape)}"
        )
    _check_like(f"{op}: {name}", row, dtype, first_name, first)


def _check_like(
    what: str, tensor: Tensor, dtype: torch.dtype, first_name: str, first: Tensor
) -> None:
    if tensor.dtype != dtype:
        raise ValueError(f"{what} must be {dtype}, got {tensor.dtype}; cast with .to({dtype})")
    if tensor.device != first.device:
        raise ValueError(
            f"{what} must be on {first.device} like {first_name}, got {tensor.device}; move it"
        )


def check_coefficients(op: str, gamma: float, gae_lambda: float) -> None:
    """Refuse a discount or trace decay outside [0, 1]."""
    for name, coefficient in (("gamma", gamma), ("gae_lambda", gae_lambda)):
        if not 0.0 <= coefficient <= 1.0:
            raise ValueError(f"{op}: {name} must lie in [0, 1], got {coefficient}")


def check_length_range(op: str, lengths: Tensor, num_steps: int) -> None:
    """Refuse a length outside [0, T], where looking does not wait for a device."""
    if not has_values(lengths) or lengths.device.type != "cpu" or lengths.numel() == 0:
        return
    shortest, longest = (int(bound) for bound in lengths.aminmax())
    if shortest < 0 or longest > num_steps:
        raise ValueError(
            f"{op}: lengths must lie in [0, {num_steps}], got {shortest} to {longest}; "
            "count valid steps only"
        )


def _lengths_of_prefix(is_response: Tensor, rewards: Tensor) -> Tensor:
    """Count the True entries of each row after checking that they are a run from step 0."""
    if is_response.shape != rewards.shape:
        raise ValueError(
            f"gae: is_response must have the shape of rewards {tuple(rewards.shape)}, got "
            f"{tuple(is_response.shape)}; leave the prompt's columns out of both"
        )
    _check_like("gae: is_response", is_response, torch.bool, "rewards", rewards)
    if has_values(is_response):
        has_gap = (is_response[:, 1:] & ~is_response[:, :-1]).any(dim=1)
        if has_gap.any():
            row = int(has_gap.int().argmax())
            raise ValueError(
                f"gae: is_response must be True up to some step and False after it; row {row} has "
                "a True after a False; drop prompt columns and pad at the right"
            )
    return is_response.sum(dim=1)
