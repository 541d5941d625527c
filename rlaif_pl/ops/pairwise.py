"""Cross-entropy of soft preferences under a two-way softmax over scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from rlaif_pl.ops._checks import FLOATING, check, check_values
from rlaif_pl.ops.reference import accumulator_dtype, wide_dtype


@dataclass(frozen=True, slots=True)
class PairwiseSums:
    """What a batch of pairs adds up to; every field is ``()``, and only ``loss`` has a gradient.

    Sums and not means, so that ranks can add theirs before they divide.

    Attributes:
        loss: Sum of the weighted losses, in nats, in the dtype that arithmetic runs in.
        weight: Sum of the weights, float64.
        num_correct: Weight of the pairs with ``(margin > 0) == (target > 0.5)``, float64.
        margin: Sum of ``weight * (first - second)``, float64.
    """

    loss: Tensor
    weight: Tensor
    num_correct: Tensor
    margin: Tensor


@torch.library.register_fake("rlaif_pl::pairwise_ce_fwd")
def _(first, second, target, weight, each=True):  # type: ignore[no-untyped-def]
    loss = first.new_empty(first.shape if each else 0)
    sums = target.new_empty(3, dtype=wide_dtype(target.device))
    return loss, first.new_empty(first.shape), target.new_empty(()), sums


@torch.library.register_fake("rlaif_pl::pairwise_ce_bwd")
def _(dmargin, grad, scale=1.0):  # type: ignore[no-untyped-def]
    return dmargin.new_empty(dmargin.shape), dmargin.new_empty(dmargin.shape)


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    first, second, _, weight, ctx.each = inputs
    _, dmargin, _, sums = output
    # Only dmargin serves the first derivative; the scores are references, kept for the second.
    ctx.save_for_backward(first, second, weight, dmargin)
    ctx.scale = 1.0
    ctx.mark_non_differentiable(sums)
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_loss, grad_dmargin, grad_total, _grad_sums):  # type: ignore[no-untyped-def]
    first, second, weight, dmargin = ctx.saved_tensors
    if not ctx.each:  # the loss has no entries, and nor has its gradient
        grad_loss = None
    if grad_total is not None:  # () and so broadcast
        grad_total = grad_total.to(dmargin.dtype)
        grad_loss = grad_total if grad_loss is None else grad_loss + grad_total
    if grad_dmargin is None and grad_loss is not None and not torch.is_grad_enabled():
        backward = torch.ops.rlaif_pl.pairwise_ce_bwd.default
        return *backward(dmargin, grad_loss, ctx.scale), None, None, None
    if grad_loss is not None and ctx.scale != 1.0:
        grad_loss = grad_loss * ctx.scale
    grad_margin = None if grad_loss is None else grad_loss * dmargin
    if grad_dmargin is not None:  # the output dmargin is used only in a second derivative
        sigmoid = torch.sigmoid(first - second)
        curved = grad_dmargin * sigmoid * (1 - sigmoid)
        curved = curved if weight is None else (curved * weight).to(curved.dtype)
        grad_margin = curved if grad_margin is None else grad_margin + curved
    if grad_margin is None:
        return (None,) * 5
    return grad_margin, -grad_margin, None, None, None


torch.library.register_autograd(
    "rlaif_pl::pairwise_ce_fwd", _backward, setup_context=_setup_context
)


class _Eager(torch.autograd.Function):
    """The same derivative as registered above, by the shorter way: a call takes half the time.

    It also scales the total: for a few pairs, one more node of autograd is a fifth of the time.
    """

    @staticmethod
    def forward(ctx, scale, *inputs):  # type: ignore[no-untyped-def]
        with torch._C._AutoDispatchBelowAutograd():
            output = torch.ops.rlaif_pl.pairwise_ce_fwd.default(*inputs)
            if scale != 1.0:
                output[2].mul_(scale)
        _setup_context(ctx, inputs, output)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx, *grads):  # type: ignore[no-untyped-def]
        return None, *_backward(ctx, *grads)


def pairwise_ce(
    first: Tensor,
    second: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: Literal["none", "mean", "sum"] = "none",
) -> Tensor:
    """Compute the cross-entropy of soft preferences under a two-way softmax over scores.

    With margin ``m = first - second``, ``p = target`` and ``w = weight``::

        loss = -w * (p * log(sigmoid(m)) + (1 - p) * log(sigmoid(-m)))

    Source: Lee et al. 2023 (RLAIF), https://arxiv.org/abs/2309.00267v2, section 2.2.1; p in {0, 1}
    gives the Bradley-Terry loss of Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, eq. 1.

    float32 and float64 are computed natively; bfloat16 and float16 in float32, the loss rounded once.
    Margins of any finite size are safe. An infinite margin gives the limit: 0 if the target is
    wholly on its side, else infinity, with a finite gradient. A NaN margin (also infinity minus
    infinity) gives NaN. A weight of 0 removes its pair: loss and gradient are 0 for any margin.

    Args:
        first: Score of the first response, in nats. ``(N,)``
        second: Score of the second response. ``(N,)``
        target: Labeler's probability that the first is better, in [0, 1], of any of these dtypes. Its
            values, like those of ``weight``, are checked on the CPU only. ``(N,)``
        weight: Importance of each pair, finite and at least 0; None stands for ones. ``(N,)``
        reduction: ``none``; ``sum``; or ``mean``, the sum over N, whatever the weights (NaN for no
            pairs). The last two never write the losses down, and cost no step of autograd.

    Returns:
        Loss of each pair in nats, ``(N,)`` in the dtype of ``first``, or ``()`` in the dtype that
        arithmetic runs in. Differentiable in ``first`` and ``second`` to any order, not in
        ``target`` and ``weight``.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit; a target is outside [0, 1] or NaN; a
            weight is negative or not finite; ``target`` or ``weight`` requires a gradient; another
            ``reduction``.
    """
    if reduction == "none":
        return _run(first, second, target, weight, True, False)[0]
    if reduction not in ("mean", "sum"):
        raise ValueError(f"pairwise_ce: reduction must be none, mean or sum, got {reduction!r}")
    return _run(first, second, target, weight, False, reduction == "mean")[2]


def pairwise_ce_sums(
    first: Tensor, second: Tensor, target: Tensor, weight: Tensor | None = None
) -> PairwiseSums:
    """Add up ``pairwise_ce`` over a batch, with accuracy and margin, in one pass over memory.

    Sums run in float64 over blocks of 1,024 pairs, so the number of threads changes nothing. Arguments
    and errors are those of ``pairwise_ce``, and ``loss`` is differentiable like it.
    """
    _, _, total, sums = _run(first, second, target, weight, False, False)
    return PairwiseSums(total, *sums.unbind())


def _run(
    first: Tensor, second: Tensor, target: Tensor, weight: Tensor | None, each: bool, is_mean: bool
) -> Any:
    check("pairwise_ce", "first", first, ("N",), FLOATING)
    check("pairwise_ce", "second", second, first.shape, (first.dtype,), first)
    target = _as_label("target", target, first)
    if weight is not None:
        weight = _as_label("weight", weight, first)
    op = torch.ops.rlaif_pl.pairwise_ce_fwd.default
    if torch.compiler.is_compiling():
        outputs = op(first, second, target, weight, each)
        return (*outputs[:2], outputs[2] / len(first), outputs[3]) if is_mean else outputs
    scale = 1.0 if not is_mean else 1.0 / len(first) if len(first) else float("nan")
    try:
        return _Eager.apply(scale, first, second, target, weight, each)
    except RuntimeError:
        # The kernel saw a bad label and says nothing of where; look only now.
        check_values("pairwise_ce", "target", target, 0, 1, "be a probability in [0, 1]")
        if weight is not None:
            largest = torch.finfo(weight.dtype).max
            check_values("pairwise_ce", "weight", weight, 0, largest, "be finite and at least 0")
        raise


def _as_label(name: str, tensor: Tensor, first: Tensor) -> Tensor:
    """Check what came with the data and bring it to the dtype that the arithmetic runs in."""
    check("pairwise_ce", name, tensor, first.shape, FLOATING, first)
    if tensor.requires_grad:
        raise ValueError(
            f"pairwise_ce: {name} must not require a gradient, since none is computed for it; "
            "pass .detach()"
        )
    return tensor.to(accumulator_dtype(first.dtype))
