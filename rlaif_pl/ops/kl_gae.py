"""Advantages straight from log-probabilities: reward shaping, KL and GAE in one pass over memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlaif_pl.ops._checks import FLOATING, check, rows_or_whole
from rlaif_pl.ops.gae import check_coefficients
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


@torch.library.register_fake("rlaif_pl::kl_gae")
def _(logprobs, ref_logprobs, values, scores, lengths, bootstrap, kl_coef, gamma, gae_lambda):  # type: ignore[no-untyped-def]
    torch._check(logprobs.dim() == 2)
    for each in (ref_logprobs, values):
        torch._check(each.shape == logprobs.shape)
    for each in (scores, lengths, bootstrap):
        torch._check(each.shape == logprobs.shape[:1])
    rows = logprobs.shape[0]
    targets = logprobs.new_empty(logprobs.shape), logprobs.new_empty(logprobs.shape)
    return (
        *targets,
        logprobs.new_empty(rows),
        logprobs.new_empty(rows, 2, dtype=wide_dtype(logprobs.device)),
    )


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
    check_coefficients("kl_gae", gamma, gae_lambda)
    if not kl_coef >= 0:
        raise ValueError(f"kl_gae: kl_coef must be at least 0, got {kl_coef}")
    lengths, bootstrap = rows_or_whole("kl_gae", logprobs, lengths, bootstrap)
    return KLGae(
        *torch.ops.rlaif_pl.kl_gae.default(
            logprobs, ref_logprobs, values, scores, lengths, bootstrap, kl_coef, gamma, gae_lambda
        )
    )
