"""Advantages of rows of unequal length: GAE, alone or with reward shaping and KL in one pass.

A row is one trajectory, padded at the right; several episodes in one row are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlaif_pl.ops._checks import FLOATING, check, check_values, has_values
from rlaif_pl.ops.reference import wide_dtype


@dataclass(frozen=True, slots=True)
class KLGae:
    """Targets of one actor-critic step; none of them has a gradient.

    Attributes:
        advantages: ``(N, T)``, 0 at padding.
        returns: Value targets. ``(N, T)``, 0 at padding.
        kl: Sum of ``logprob - ref_logprob`` over the valid steps of each row, in nats. ``(N,)``
        moments: Sums of the advantages and of their squares over the valid steps of each row. To
            whiten, add up the rows that count (of all ranks) and divide by their number of steps.
            ``(N, 2)`` float64 (float32 on MPS, see ``wide_dtype``)
    """

    advantages: Tensor
    returns: Tensor
    kl: Tensor
    moments: Tensor


@torch.library.register_fake("rlaif_pl::gae")
def _(rewards, values, lengths, bootstrap, gamma, gae_lambda):  # type: ignore[no-untyped-def]
    return rewards.new_empty(rewards.shape), rewards.new_empty(rewards.shape)


@torch.library.register_fake("rlaif_pl::kl_gae")
def _(logprobs, ref_logprobs, values, scores, lengths, bootstrap, kl_coef, gamma, gae_lambda):  # type: ignore[no-untyped-def]
    targets = logprobs.new_empty(logprobs.shape), logprobs.new_empty(logprobs.shape)
    moments = logprobs.new_empty(logprobs.shape[0], 2, dtype=wide_dtype(logprobs.device))
    return *targets, logprobs.new_empty(logprobs.shape[0]), moments


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

    Source: Schulman et al. 2016, https://arxiv.org/abs/1506.02438, eq. 11, 12 and 16. float32 and
    float64 are computed natively, bfloat16 and float16 in float32 and rounded once. What padding
    holds, NaN included, has no effect; a NaN or infinity at a valid step reaches that step and the
    earlier ones of its row, nothing else.

    Args:
        rewards: Reward received after the action at step t, in reward-model units. ``(N, T)``
        values: Critic estimate of the state before the action at step t. ``(N, T)``
        lengths: Valid steps of each row, in [0, T]; None means T, or what ``is_response`` says. On a
            GPU, which nothing waits for, a length outside acts as the nearer bound. ``(N,)`` int64
        is_response: Instead of ``lengths``: True at valid steps, a run from step 0. Looking at it
            waits for a GPU. ``(N, T)`` bool
        bootstrap: Value of the state after the last valid step: 0 (None) where the text ended, the
            critic's estimate where it was cut at the length limit. ``(N,)``
        gamma: Discount per token, in [0, 1].
        gae_lambda: Trace decay, in [0, 1]; 0 gives one-step TD, 1 gives Monte Carlo returns.

    Returns:
        ``(advantages, returns)``, each ``(N, T)`` in the dtype of ``rewards``, zero at padding.
        Both are targets, so neither requires a gradient.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit; a number is out of range; ``is_response`` has
            a gap, or comes with ``lengths``.
    """
    check("gae", "rewards", rewards, ("N", "T"), FLOATING)
    check("gae", "values", values, rewards.shape, (rewards.dtype,), rewards)
    if is_response is not None:
        if lengths is not None:
            raise ValueError("gae: got both lengths and is_response; pass one of them")
        lengths = _lengths_of_prefix(is_response, rewards)
    shares = {"gamma": gamma, "gae_lambda": gae_lambda}
    lengths, bootstrap = _checked("gae", rewards, lengths, bootstrap, **shares)
    return torch.ops.rlaif_pl.gae.default(rewards, values, lengths, bootstrap, gamma, gae_lambda)


def kl_gae(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    values: Tensor,
    scores: Tensor,
    *,
    lengths: Tensor | None = None,
    bootstrap: Tensor | None = None,
    kl_coef: float = 0.05,
    gamma: float = 1.0,
    gae_lambda: float = 1.0,
) -> KLGae:
    """Estimate advantages under a KL penalty a token and a score at the end of each response.

    With ``L`` valid steps in a row, the rewards are::

        r[t] = -kl_coef * (logprobs[t] - ref_logprobs[t]) + (scores if t == L - 1 else 0)

    and the rest is ``gae``. An empty row has nowhere to put its score. Scale the scores by
    ``1 - kl_coef`` and subtract penalties first, where wanted.

    Source: Lee et al. 2023 (RLAIF), https://arxiv.org/abs/2309.00267v2, appendix A.3; Schulman et
    al. 2016, https://arxiv.org/abs/1506.02438, eq. 11, 12 and 16.

    Args:
        logprobs: Policy's log-probability of each token taken. ``(N, T)``
        ref_logprobs: Reference's. ``(N, T)``
        values: Critic's estimate before each token. ``(N, T)``
        scores: Of each whole response. ``(N,)``
        lengths: As in ``gae``. ``(N,)`` int64
        bootstrap: As in ``gae``. ``(N,)``
        kl_coef: Weight of the KL penalty, at least 0.
        gamma: Discount per token, in [0, 1].
        gae_lambda: Trace decay, in [0, 1].

    Returns:
        The targets, in the dtype of ``logprobs``; what padding holds has no effect.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit; a number is out of range.
    """
    check("kl_gae", "logprobs", logprobs, ("N", "T"), FLOATING)
    for name, other in (("ref_logprobs", ref_logprobs), ("values", values)):
        check("kl_gae", name, other, logprobs.shape, (logprobs.dtype,), logprobs)
    check("kl_gae", "scores", scores, logprobs.shape[:1], (logprobs.dtype,), logprobs)
    if not kl_coef >= 0:
        raise ValueError(f"kl_gae: kl_coef must be at least 0, got {kl_coef}")
    shares = {"gamma": gamma, "gae_lambda": gae_lambda}
    lengths, bootstrap = _checked("kl_gae", logprobs, lengths, bootstrap, **shares)
    targets = torch.ops.rlaif_pl.kl_gae.default(
        logprobs, ref_logprobs, values, scores, lengths, bootstrap, kl_coef, gamma, gae_lambda
    )
    return KLGae(*targets)


def _checked(
    op: str, first: Tensor, lengths: Tensor | None, bootstrap: Tensor | None, **shares: float
) -> tuple[Tensor, Tensor]:
    """Check what both ops take; lengths and bootstrap, where None is whole rows of ``first`` and 0."""
    for name, share in shares.items():
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"{op}: {name} must lie in [0, 1], got {share}")
    count, width = first.shape
    if lengths is None:
        lengths = first.new_full((count,), width, dtype=torch.int64)
    else:
        check(op, "lengths", lengths, (count,), (torch.int64,), first)
        check_values(op, "lengths", lengths, 0, width, f"lie in [0, {width}]")
    if bootstrap is None:
        return lengths, first.new_zeros(count)
    check(op, "bootstrap", bootstrap, (count,), (first.dtype,), first)
    return lengths, bootstrap


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
