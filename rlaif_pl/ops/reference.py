"""Plain PyTorch statements of every op: the definition the kernels are tested against.

The signatures are those of the schemas in ``_library.py``. Arithmetic runs in ``accumulator_dtype``
and is rounded once, at the end, to the dtype of the inputs; the kernels do the same.
"""

from __future__ import annotations

import torch
from torch import Tensor


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that arithmetic on ``dtype`` runs in: float64 for itself, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def gae(
    rewards: Tensor, values: Tensor, lengths: Tensor, bootstrap: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimates and value targets by a reverse loop over time.

    Source: Schulman et al. 2016, https://arxiv.org/abs/1506.02438, eq. 11, 12 and 16.

    Args:
        rewards: ``(N, T)``
        values: ``(N, T)``
        lengths: Valid steps of each row, in [0, T]. ``(N,)`` int64
        bootstrap: Value after the last valid step. ``(N,)``
        gamma: Discount per step.
        lam: Trace decay per step.

    Returns:
        ``(advantages, returns)``, each ``(N, T)`` contiguous, zero from ``lengths[n]`` on.

    Raises:
        RuntimeError: A length on the CPU is outside [0, T]. Elsewhere, where looking would wait for
            the device, such a length acts as the nearer bound.
    """
    num_steps = rewards.shape[1]
    if lengths.device.type == "cpu" and ((lengths < 0) | (lengths > num_steps)).any():
        raise RuntimeError(f"gae: lengths must lie in [0, {num_steps}]")
    acc = accumulator_dtype(rewards.dtype)
    advantages = torch.zeros(rewards.shape, dtype=acc, device=rewards.device)
    returns = torch.zeros_like(advantages)
    carry = torch.zeros_like(bootstrap, dtype=acc)
    next_value = bootstrap.to(acc)
    for t in reversed(range(num_steps)):
        is_valid = t < lengths
        value = values[:, t].to(acc)
        delta = rewards[:, t].to(acc) + gamma * next_value - value
        # where, not a product with the mask: padding may hold NaN, and 0 * NaN is NaN.
        carry = torch.where(is_valid, delta + gamma * lam * carry, 0.0)
        advantages[:, t] = carry
        returns[:, t] = torch.where(is_valid, carry + value, 0.0)
        next_value = torch.where(is_valid, value, next_value)
    return advantages.to(rewards.dtype), returns.to(rewards.dtype)


def pairwise_ce_fwd(
    first: Tensor, second: Tensor, target: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy of soft preferences, and its derivative in the margin.

    With ``m = first - second`` and ``p = target``::

        loss  = w * (p * softplus(-m) + (1 - p) * softplus(m))
        slope = w * ((1 - p) * sigmoid(m) - p * sigmoid(-m))

    Written as sums of terms of one sign each, so nothing cancels where the margin is large, and the
    slope of a pair the model already has right does not round to zero. A term with a zero factor is
    zero even if the other factor is infinite: its limit.

    Source: Lee et al. 2023 (RLAIF), https://arxiv.org/abs/2309.00267v2, section 2.2.1:
    cross-entropy between softmax of the two scores and the labeler's distribution.

    Args:
        first: Score of the first response. ``(N,)``
        second: Score of the second. ``(N,)``
        target: Probability that the first is better, in the accumulator dtype. ``(N,)``
        weight: Importance of each pair, in the accumulator dtype; None stands for ones. ``(N,)``

    Returns:
        ``(loss, dmargin)``, each ``(N,)`` contiguous.
    """
    acc = accumulator_dtype(first.dtype)
    margin = first.to(acc) - second.to(acc)
    small = torch.exp(-margin.abs())  # in (0, 1]
    share = torch.where(margin > 0, 1 - target, target)  # what the margin speaks against
    loss = torch.log1p(small) + torch.where(share == 0, 0.0, share * margin.abs())
    larger, smaller = 1 / (1 + small), small / (1 + small)
    up, down = torch.where(margin >= 0, larger, smaller), torch.where(margin >= 0, smaller, larger)
    slope = (1 - target) * up - target * down
    if weight is not None:
        loss = torch.where(weight != 0, weight * loss, 0.0)
        slope = torch.where(weight != 0, weight * slope, 0.0)
    return loss.to(first.dtype).contiguous(), slope.to(first.dtype).contiguous()
