"""Log-probability and entropy of tokens from hidden states, without a row of logits left over.

The output embedding is taken in blocks of columns: a matrix product gives a block's logits, and a
fused kernel folds them into the running statistics of the softmax. Where only the hidden states
need a gradient, that same block, by then exp(z - max), is multiplied back onto the embedding, so the
derivative is ready when the forward pass ends. Where the embedding is trained, the backward pass makes
the blocks again and writes each part of the embedding's gradient once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlaif_pl.ops._checks import FLOATING, check, check_values
from rlaif_pl.ops._products import (
    add_product,
    block_products,
    weight_gradient_dtype,
    without_autocast,
)
from rlaif_pl.ops.reference import accumulator_dtype

OP = "linear_logprob"  # in messages


@without_autocast
def _forward(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    bias: Tensor | None,
    temperature: float,
    softcap: float,
    keep_slope: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    acc = accumulator_dtype(hidden.dtype)
    num_rows, width = hidden.shape
    state = torch.zeros(num_rows, 5, dtype=acc, device=hidden.device)
    state[:, 0] = -torch.inf
    mean = torch.zeros(num_rows if keep_slope else 0, width, dtype=acc, device=hidden.device)
    wide_bias = None if bias is None else bias.to(acc)
    update = torch.ops.rlaif_pl.online_softmax_update_.default
    scaling = 1.0 / temperature, softcap
    for rows, columns, block, logits in block_products(hidden, weight):
        part = None if wide_bias is None else wide_bias[columns]
        update(logits, tokens[rows], part, state[rows], columns.start, *scaling, keep_slope)
        if keep_slope:  # sums of exp(z - max) times embeddings, in step with the state's sums
            add_product(mean[rows].mul_(state[rows, 4:]), logits, block)
    largest, total, moment, taken, _ = state.unbind(1)
    logsumexp = largest + total.log()
    entropy = total.log() - moment / total
    logprob = taken - logsumexp
    if keep_slope:  # d logprob / d hidden: taken minus mean
        mean.div_(-total[:, None])
        if softcap == 0:
            mean.add_(weight[tokens])
        else:
            tanh = taken * (temperature / softcap)
            mean.addcmul_(weight[tokens].to(acc), (1 - tanh * tanh)[:, None])
        mean.div_(temperature)
    return logprob, entropy, logsumexp, mean.to(hidden.dtype)


@without_autocast
def _backward_blocks(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    temperature: float,
    softcap: float,
    trains_weight: bool,
    trains_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    acc = accumulator_dtype(hidden.dtype)
    dhidden = torch.zeros(hidden.shape, dtype=acc, device=hidden.device)
    trained = len(weight) if trains_weight else 0
    dweight = weight.new_zeros(
        trained, weight.shape[1], dtype=weight_gradient_dtype(hidden, weight)
    )
    dbias = torch.zeros(len(weight) if trains_bias else 0, dtype=acc, device=hidden.device)
    wide_bias = None if bias is None else bias.to(acc)
    backward = torch.ops.rlaif_pl.online_softmax_backward_.default
    for these, columns, block, slopes in block_products(hidden, weight):
        part = None if wide_bias is None else wide_bias[columns]
        scaling = columns.start, 1.0 / temperature, softcap
        backward(slopes, tokens[these], part, rows[these], *scaling)
        add_product(dhidden[these], slopes, block)
        if trains_weight:
            add_product(dweight[columns], slopes.t(), hidden[these])
        if trains_bias:
            dbias[columns] += slopes.sum(0, dtype=acc)
    bias_dtype = hidden.dtype if bias is None else bias.dtype
    return dhidden.to(hidden.dtype), dweight.to(weight.dtype), dbias.to(bias_dtype)


torch.library.impl("rlaif_pl::linear_logprob_fwd", "default", _forward)
torch.library.impl("rlaif_pl::linear_logprob_bwd", "default", _backward_blocks)


@torch.library.register_fake("rlaif_pl::linear_logprob_fwd")
def _(hidden, weight, tokens, bias, temperature, softcap, keep_slope):  # type: ignore[no-untyped-def]
    acc = accumulator_dtype(hidden.dtype)
    row = [hidden.new_empty(hidden.shape[:1], dtype=acc) for _ in range(3)]
    return *row, hidden.new_empty(hidden.shape[0] if keep_slope else 0, hidden.shape[1])


@torch.library.register_fake("rlaif_pl::linear_logprob_bwd")
def _(  # type: ignore[no-untyped-def]
    hidden, weight, tokens, bias, rows, temperature, softcap, trains_weight, trains_bias
):
    dweight = weight.new_empty(weight.shape[0] if trains_weight else 0, weight.shape[1])
    dtype = hidden.dtype if bias is None else bias.dtype
    dbias = hidden.new_empty(weight.shape[0] if trains_bias else 0, dtype=dtype)
    return hidden.new_empty(hidden.shape), dweight, dbias


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    hidden, weight, tokens, bias, ctx.temperature, ctx.softcap, ctx.keep_slope = inputs
    _, entropy, logsumexp, slope = output
    ctx.mark_non_differentiable(logsumexp, slope)
    if ctx.keep_slope:
        ctx.mark_non_differentiable(entropy)
        ctx.save_for_backward(slope)
    else:
        ctx.save_for_backward(hidden, weight, tokens, bias, logsumexp, entropy)
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_logprob, grad_entropy, _grad_logsumexp, _grad_slope):  # type: ignore[no-untyped-def]
    nothing = (None,) * 7
    if ctx.keep_slope:
        if grad_logprob is None:
            return nothing
        (slope,) = ctx.saved_tensors
        return (grad_logprob[:, None] * slope).to(slope.dtype), *nothing[1:]
    if grad_logprob is None and grad_entropy is None:
        return nothing
    hidden, weight, tokens, bias, logsumexp, entropy = ctx.saved_tensors
    zero = torch.zeros_like(entropy)
    grads = [zero if grad is None else grad for grad in (grad_logprob, grad_entropy)]
    rows = torch.stack([logsumexp, entropy, *grads], 1)
    needs = ctx.needs_input_grad
    dhidden, dweight, dbias = torch.ops.rlaif_pl.linear_logprob_bwd.default(
        hidden, weight, tokens, bias, rows, ctx.temperature, ctx.softcap, needs[1], needs[3]
    )
    made = dhidden, dweight, None, dbias, *nothing[4:]
    return tuple(each if needed else None for each, needed in zip(made, needs, strict=True))


torch.library.register_autograd(
    "rlaif_pl::linear_logprob_fwd", _backward, setup_context=_setup_context
)


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    temperature: float = 1.0,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probability of the taken token, and entropy, without holding the logits of all rows.

    With ``z = cap(hidden @ weight.T + bias) / temperature`` and p its softmax::

        logprob = z[token] - log(sum(exp(z)))        entropy = -sum(p log p)

    At most 2^21 logits exist at a time (1,024 columns of 2,048 rows, fewer rows with more columns);
    on a GPU 2^21 to 2^25 by its memory, 4,096 columns or more. Logits and statistics are float32
    (float64 for float64 inputs), also those of 16-bit inputs. Slopes of a trained float16 embedding are
    multiplied in float16 on a GPU, where those below 6e-8 are 0: scale the loss, as ``16-mixed`` does,
    or train in bfloat16.

    If neither ``weight`` nor ``bias`` requires a gradient, the derivative in ``hidden`` is made in
    the forward pass, ``(N, D)``, and only scaled in the backward. Otherwise, or with
    ``entropy_gradient``, the backward pass computes the logits again, block by block.

    Args:
        hidden: State before each token. ``(N, D)`` floating
        weight: Output embedding, of the dtype of ``hidden``. ``(V, D)``
        tokens: Token taken in each row, in [0, V), which only a CPU checks. ``(N,)`` int64
        temperature: Divides the logits, above 0.
        bias: Of the output embedding, floating. ``(V,)``
        softcap: Bound of ``cap(x) = softcap * tanh(x / softcap)``, above 0; None for no cap.
        entropy_gradient: Whether the entropy is differentiable; without, it carries no gradient
            where neither ``weight`` nor ``bias`` is trained.

    Returns:
        ``(logprob, entropy)`` in nats, each ``(N,)``, float32 or float64. Differentiable once, in
        ``hidden``, ``weight`` and ``bias``.

    Raises:
        ValueError: Shapes, dtypes, devices, ``temperature`` or ``softcap`` do not fit.
    """
    check(OP, "hidden", hidden, ("N", "D"), FLOATING)
    check(OP, "weight", weight, ("V", hidden.shape[1]), (hidden.dtype,), hidden)
    check(OP, "tokens", tokens, hidden.shape[:1], (torch.int64,), hidden)
    if bias is not None:
        check(OP, "bias", bias, weight.shape[:1], FLOATING, hidden)
    most = len(weight) - 1
    check_values(OP, "tokens", tokens, 0, most, f"lie in [0, {most}], without padding")
    for name, number in (("temperature", temperature), ("softcap", softcap)):
        if number is not None and not number > 0:
            raise ValueError(f"{OP}: {name} must be above 0, got {number}")
    trains_head = weight.requires_grad or (bias is not None and bias.requires_grad)
    needs_grad = torch.is_grad_enabled() and hidden.requires_grad
    keep_slope = needs_grad and not trains_head and not entropy_gradient
    scaling = float(temperature), float(softcap or 0.0)
    forward = torch.ops.rlaif_pl.linear_logprob_fwd.default
    logprob, entropy, _, _ = forward(hidden, weight, tokens, bias, *scaling, keep_slope)
    return logprob, entropy
