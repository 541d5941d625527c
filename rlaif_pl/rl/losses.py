"""Actor and critic losses of advantage actor-critic.

``L_PG = -log pi(a_t | s_t) stopgrad(A_t)`` and ``L_V = (G_t - V(s_t))^2`` of each token
(arXiv 2309.00267v2, appendix F, with Z_t - V(X_t) as advantage). The paper writes their sum over a
response; here they are averaged as ``token_weights`` says, over all tokens of the batch by default.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

Average = Literal["token_mean", "sequence_mean", "constant"]


def token_weights(is_response: Tensor, average: Average, most_tokens: int) -> tuple[Tensor, Tensor]:
    """Return what tokens weigh in a loss ``(N, R)``, and the count that their sum is divided by.

    Args:
        is_response: Which entries count. ``(N, R)`` bool
        average: ``token_mean``: each token the same (DAPO, arXiv 2503.14476, equation 8).
            ``sequence_mean``: each response the same (GRPO, arXiv 2402.03300, equation 3).
            ``constant``: each token ``1 / most_tokens`` of a response, however long its own is (Dr.
            GRPO, arXiv 2503.20783): the sum over tokens of the paper's loss, up to that factor.
        most_tokens: Tokens that a response may have.
    """
    if average == "token_mean":
        return is_response, is_response.sum()
    lengths = is_response.sum(1, keepdim=True).clamp(min=1)
    weights = is_response / (lengths if average == "sequence_mean" else most_tokens)
    return weights, is_response.any(1).sum()


def response_mean(values: Tensor, weights: Tensor, count: Tensor | None = None) -> Tensor:
    """Weighted sum of ``(N, R)`` over ``count``, None for the weights'; 0 without response tokens."""
    total = weights.sum() if count is None else count
    return (values * weights).sum() / total.clamp(min=1)


def policy_gradient_loss(
    logprobs: Tensor, advantages: Tensor, weights: Tensor, count: Tensor | None = None
) -> Tensor:
    """Policy-gradient loss of the tokens taken, averaged by ``response_mean``. All ``(N, R)``."""
    return -response_mean(logprobs * advantages.detach(), weights, count)


def truncated_weights(log_ratio: Tensor, cap: float) -> Tensor:
    """Importance weights ``min(pi / mu, cap)`` of tokens that another policy mu drew. ``(N, R)``."""
    return log_ratio.clamp(max=math.log(cap)).exp()


def value_loss(
    values: Tensor, returns: Tensor, weights: Tensor, count: Tensor | None = None
) -> Tensor:
    """Squared error of the critic, averaged by ``response_mean``. Values and returns ``(N, R)``."""
    return response_mean((values - returns.detach()).square(), weights, count)


def explained_variance(values: Tensor, returns: Tensor, is_response: Tensor) -> Tensor:
    """``1 - Var(G - V) / Var(G)`` over response tokens, 1 at best; 0, not NaN, where there are none."""
    count = is_response.sum().clamp(min=1)  # never on the host

    def variance(each: Tensor) -> Tensor:
        mean = each.masked_fill(~is_response, 0.0).sum() / count
        return (each - mean).square().masked_fill(~is_response, 0.0).sum() / count

    left, spread = variance(returns - values), variance(returns)
    return (1 - left / spread.clamp(min=1e-12)).where(is_response.any(), 0.0)
