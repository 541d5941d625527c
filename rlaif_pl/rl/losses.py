"""Actor and critic losses of advantage actor-critic.

``L_PG = -sum_t log pi(a_t | s_t) stopgrad(A_t)`` and ``L_V = sum_t (G_t - V(s_t))^2``
(arXiv 2309.00267v2, appendix F, with Z_t - V(X_t) as advantage). Left out of PPO: ratio, clipping and
epochs; each batch is used for one step, so the training pass is also the behavior policy's, but where
a server drew the responses (``truncated_weights``).
"""

from __future__ import annotations

import math

from torch import Tensor


def response_mean(values: Tensor, is_response: Tensor) -> Tensor:
    """Average over response tokens; 0 where there is none. Arguments ``(N, R)``."""
    return (values * is_response).sum() / is_response.sum().clamp(min=1)


def policy_gradient_loss(logprobs: Tensor, advantages: Tensor, is_response: Tensor) -> Tensor:
    """Policy-gradient loss, averaged over response tokens.

    Args:
        logprobs: Of the tokens taken, with gradient. ``(N, R)``
        advantages: Targets without gradient. ``(N, R)``
        is_response: Which entries count. ``(N, R)`` bool
    """
    return -response_mean(logprobs * advantages.detach(), is_response)


def truncated_weights(log_ratio: Tensor, cap: float) -> Tensor:
    """Importance weights ``min(pi / mu, C)`` of tokens that another policy mu drew. ``(N, R)``.

    Args:
        log_ratio: Log of pi over mu, without gradient. ``(N, R)``
        cap: ``C``, at least 1; it bounds the variance, and biases what lies above.
    """
    return log_ratio.clamp(max=math.log(cap)).exp()


def value_loss(values: Tensor, returns: Tensor, is_response: Tensor) -> Tensor:
    """Squared error of the critic, averaged over response tokens. Arguments ``(N, R)``."""
    return response_mean((values - returns.detach()).square(), is_response)


def explained_variance(values: Tensor, returns: Tensor, is_response: Tensor) -> Tensor:
    """``1 - Var(G - V) / Var(G)`` over response tokens: 1 is perfect, 0 is a constant guess.

    A batch without response tokens (a rank that holds only fillers) gives 0, not NaN.
    """
    left, spread = (_variance(each, is_response) for each in (returns - values, returns))
    return (1 - left / spread.clamp(min=1e-12)).where(is_response.any(), 0.0)


def _variance(values: Tensor, is_response: Tensor) -> Tensor:
    """Mean square around the mean of some values, without their number on the host."""
    count = is_response.sum().clamp(min=1)
    mean = values.masked_fill(~is_response, 0.0).sum() / count
    return (values - mean).square().masked_fill(~is_response, 0.0).sum() / count
