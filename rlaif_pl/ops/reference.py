"""Plain PyTorch statements of every op: the definition the kernels are tested against.

Signatures are those of the schemas in ``_library.py``; the wrappers say what arguments and results are.
Arithmetic runs in ``accumulator_dtype`` and is rounded once, at the end; the kernels do the same.
``no_grad`` marks the ops whose results are targets.
"""

from __future__ import annotations

import torch
from torch import Tensor


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that arithmetic on ``dtype`` runs in: float64 for itself, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def wide_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype that long sums run in: float64, but float32 on Apple's GPUs, which lack it."""
    return torch.float32 if device.type == "mps" else torch.float64


@torch.no_grad()
def gae(
    rewards: Tensor,
    values: Tensor,
    lengths: Tensor,
    bootstrap: Tensor,
    gamma: float,
    gae_lambda: float,
) -> tuple[Tensor, Tensor]:
    """Advantages and returns by a reverse loop over time, zero from ``lengths`` on; see ``ops.gae``.

    A length outside [0, T] is a RuntimeError on a CPU; others, not waited for, take the nearer bound.
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
        carry = torch.where(is_valid, delta + gamma * gae_lambda * carry, 0.0)
        advantages[:, t] = carry
        returns[:, t] = torch.where(is_valid, carry + value, 0.0)
        next_value = torch.where(is_valid, value, next_value)
    return advantages.to(rewards.dtype), returns.to(rewards.dtype)


@torch.no_grad()
def kl_gae(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    values: Tensor,
    scores: Tensor,
    lengths: Tensor,
    bootstrap: Tensor,
    kl_coef: float,
    gamma: float,
    gae_lambda: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the fields of ``KLGae``: ``gae`` on the rewards that ``ops.kl_gae`` states."""
    acc = accumulator_dtype(logprobs.dtype)
    steps = torch.arange(logprobs.shape[1], device=logprobs.device)
    ratio = logprobs.to(acc) - ref_logprobs.to(acc)
    ratio = torch.where(steps < lengths[:, None], ratio, 0.0)
    rewards = -kl_coef * ratio
    rewards = torch.where(steps == lengths[:, None] - 1, rewards + scores.to(acc)[:, None], rewards)
    advantages, returns = gae(
        rewards, values.to(acc), lengths, bootstrap.to(acc), gamma, gae_lambda
    )
    wide = wide_dtype(logprobs.device)
    kl = ratio.sum(1, dtype=wide)
    precise = advantages.to(wide)
    moments = torch.stack([precise.sum(1), precise.square().sum(1)], 1)
    dtype = logprobs.dtype
    return advantages.to(dtype), returns.to(dtype), kl.to(acc).to(dtype), moments


def pairwise_ce_fwd(
    first: Tensor, second: Tensor, target: Tensor, weight: Tensor | None, each: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weighted cross-entropy of soft preferences, its derivative in the margin, and sums.

    With ``m = first - second``, ``p = target`` and ``w = weight``, both in the accumulator dtype::

        loss  = w * (p * softplus(-m) + (1 - p) * softplus(m))
        slope = w * ((1 - p) * sigmoid(m) - p * sigmoid(-m))

    Written as sums of terms of one sign each, so nothing cancels where the margin is large, and the
    slope of a pair the model already has right does not round to zero. A term with a zero factor is
    zero even if the other factor is infinite: its limit.

    Returns:
        ``(loss, slope, total, sums)``: ``(N,)`` but ``loss`` ``(0,)`` without ``each``; the sum of the
        losses, ``()`` in the accumulator dtype; those of the weights, of the weights where margin and
        target prefer the same response, and of ``w * m``, ``(3,)`` in ``wide_dtype``.

    Raises:
        RuntimeError: On the CPU, a target is outside [0, 1] or a weight negative or not finite.
    """
    acc = accumulator_dtype(first.dtype)
    is_good = (target >= 0) & (target <= 1)  # NaN is bad
    if weight is not None:
        is_good = is_good & (weight >= 0) & (weight <= torch.finfo(acc).max)
    if first.device.type == "cpu" and not is_good.all():
        raise RuntimeError(
            "pairwise_ce_fwd: a target is outside [0, 1] or a weight is negative or not finite"
        )
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
    wide = wide_dtype(first.device)
    agrees = ((margin > 0) == (target > 0.5)).to(wide)
    weights = torch.ones_like(target) if weight is None else weight
    margins = torch.where(weights != 0, weights * margin, 0.0)
    sums = torch.stack([weights.sum(dtype=wide), (weights * agrees).sum(), _sum(margins)])
    total = _sum(loss).to(acc)
    loss = loss.to(first.dtype) if each else first.new_empty(0)
    return loss.contiguous(), slope.to(first.dtype).contiguous(), total, sums


def pairwise_ce_bwd(dmargin: Tensor, grad: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return ``scale * grad * dmargin`` ``(N,)`` and its negative; ``grad`` is ``(N,)`` or ``()``."""
    first = (grad * scale) * dmargin
    return first, -first


def _sum(numbers: Tensor) -> Tensor:
    return numbers.sum(dtype=wide_dtype(numbers.device))


def online_softmax_update_(
    logits: Tensor,
    tokens: Tensor,
    bias: Tensor | None,
    state: Tensor,
    start: int,
    inv_temperature: float,
    softcap: float,
    weighted: bool,
) -> None:
    """Take the next block of columns into the statistics of a softmax over all columns.

    With ``z = cap(logit + bias) * inv_temperature``, a row's state is: the largest z so far; the
    sum of ``exp(z - max)``; the sum of ``exp(z - max) * (z - max)``; the taken token's z; and the
    factor by which this block's larger maximum shrank the older sums.

    Source: Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867.

    Args:
        logits: Of columns ``start`` to ``start + B``. Overwritten with ``exp(z - max) * dcap`` where
            ``weighted``, ``dcap`` being the slope of the soft cap; else kept. ``(N, B)`` contiguous
        tokens: Column of the taken token. ``(N,)`` int64
        bias: Added to the logits, in the accumulator dtype. ``(B,)``
        state: Updated in place; starts as ``(-inf, 0, 0, 0, 0)``. ``(N, 5)`` accumulator dtype
        start: Column that the block begins at.
        inv_temperature: One over the temperature.
        softcap: ``cap(x) = softcap * tanh(x / softcap)``; 0 for none.
        weighted: Whether to overwrite the logits.
    """
    z, slope = _shaped(logits, bias, state.dtype, inv_temperature, softcap)
    largest, sums, moment, taken, _ = state.unbind(1)
    here = tokens - start
    is_here = (here >= 0) & (here < z.shape[1])
    found = z.gather(1, here.clamp(0, z.shape[1] - 1)[:, None])[:, 0]
    new = torch.maximum(largest, z.amax(1))
    is_empty = sums == 0
    factor = torch.where(is_empty, 0.0, torch.exp(largest - new))
    moment = torch.where(is_empty, 0.0, (moment + sums * (largest - new)) * factor)
    gap = z - torch.where(new == -torch.inf, 0.0, new)[:, None]
    weights = torch.exp(gap)
    moment = moment + torch.where(weights == 0, 0.0, weights * gap).sum(1)
    sums = torch.where(is_empty, 0.0, sums * factor) + weights.sum(1)
    taken = torch.where(is_here, found, taken)
    state.copy_(torch.stack([new, sums, moment, taken, factor], 1))
    if weighted:
        logits.copy_(weights * slope)


def online_softmax_backward_(
    logits: Tensor,
    tokens: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    start: int,
    inv_temperature: float,
    softcap: float,
) -> None:
    """Overwrite logits with the derivative of a combination of log-probability and entropy.

    With ``p = exp(z - logsumexp)``, and arguments as in ``online_softmax_update_``::

        d logprob / dz = [taken] - p        d entropy / dz = -p (log p + entropy)

    ``rows`` holds the log-sum-exp of z, the entropy, the gradient of the log-probability and that of
    the entropy. ``(N, 4)`` accumulator dtype
    """
    z, slope = _shaped(logits, bias, rows.dtype, inv_temperature, softcap)
    logsumexp, entropy, grad_logprob, grad_entropy = rows[:, :, None].unbind(1)
    logp = z - logsumexp
    p = torch.exp(logp)
    columns = torch.arange(start, start + z.shape[1], device=z.device)
    gap = (columns == tokens[:, None]).to(p.dtype) - p
    pull = grad_logprob * gap - torch.where(p == 0, 0.0, grad_entropy * p * (logp + entropy))
    logits.copy_(pull * slope * inv_temperature)


def _shaped(
    logits: Tensor, bias: Tensor | None, acc: torch.dtype, inv_temperature: float, softcap: float
) -> tuple[Tensor, Tensor | float]:
    """Return z and the slope of the soft cap."""
    x = logits.to(acc) if bias is None else logits.to(acc) + bias
    if softcap == 0:
        return x * inv_temperature, 1.0
    tanh = torch.tanh(x / softcap)
    return softcap * tanh * inv_temperature, 1 - tanh * tanh
