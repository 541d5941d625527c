"""The one attention that everything is made of: runs of queries to runs of keys, with log-sum-exp.

Three implementations of one contract: ``math`` (the definition, any device and type), ``cpu`` (torch's
fused CPU attention, a call a run) and ``cuda`` (FlashAttention with variable lengths, one launch). All
take token-major tensors: queries ``(n, heads, size)``, keys and values ``(m, key heads, size)``; heads
are a multiple of key heads, whose keys several heads share.

The backward passes take the output and log-sum-exp of the *joint* softmax over all blocks that the
queries ask. With ``s`` the scores, ``p = exp(s - lse)`` needs no more of the other blocks than the
joint ``lse``, and ``ds = p (dp - rowsum(dO * O))`` no more than the joint output (Dao et al. 2022,
arXiv 2205.14135, appendix B.2): each block's gradients are those of plain attention.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from rlaif_pl.engine.batch import AttentionBlock

FEW_QUERIES = 16  # up to here a CPU call folds the heads of a key head into its queries

_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_cpu_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
_cuda = torch.ops.aten._flash_attention_forward.default
_cuda_backward = torch.ops.aten._flash_attention_backward.default


class Attended(NamedTuple):
    """Result of attention to some keys."""

    output: Tensor  # (n, heads, size), of the queries' type
    lse: Tensor  # (n, heads), log-sum-exp of the scores; float32, or float64 of float64


class Leaf(Protocol):
    """One implementation."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, block: AttentionBlock, scale: float | None
    ) -> Attended:
        """Attend; queries and keys are those of the block alone."""

    def backward(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        joint: Attended,
        block: AttentionBlock,
        scale: float | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of queries, keys and values, given the joint result over all blocks."""

    def dense(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Attended:
        """Attend from one query a text ``(n, heads, size)`` to keys ``(n, m, key heads, size)``."""


def leaf_for(query: Tensor) -> Leaf:
    """Return the implementation for a device and type."""
    if query.device.type == "cpu":
        return CPU
    if query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16):
        return CUDA
    return MATH


def merge_attention_states(one: Attended, other: Attended) -> Attended:
    """Join the attention of the same queries to two sets of keys; no keys are a log-sum-exp of -inf."""
    joint = torch.logaddexp(one.lse, other.lse)
    weights = [(part.lse - joint).exp().nan_to_num(0.0)[..., None] for part in (one, other)]
    mixed = weights[0] * one.output + weights[1] * other.output
    return Attended(mixed.to(one.output.dtype), joint)


class _Math:
    """Scores as a matrix, run by run."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, block: AttentionBlock, scale: float | None
    ) -> Attended:
        found = Attended(q.new_zeros(*q.shape[:2], v.shape[-1]), _no_keys(q))
        for asking, asked in block.slices():
            scores = _scores(q[asking], k[asked], block.causal, scale)
            lse = scores.logsumexp(-1)
            weights = (scores - lse[..., None]).exp().nan_to_num(0.0)
            values = _grouped_keys(v[asked], q.shape[1]).to(weights.dtype)
            found.output[asking] = (weights @ values).transpose(0, 1).to(q.dtype)
            found.lse[asking] = lse.transpose(0, 1)
        return found

    def backward(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        joint: Attended,
        block: AttentionBlock,
        scale: float | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dq, dk, dv = (torch.zeros_like(t) for t in (q, k, v))
        factor = q.shape[-1] ** -0.5 if scale is None else scale
        shape = k.shape[1], q.shape[1] // k.shape[1]
        for asking, asked in block.slices():
            scores = _scores(q[asking], k[asked], block.causal, scale)
            p = (scores - joint.lse[asking].T[..., None]).exp()
            g = grad[asking].transpose(0, 1).to(p.dtype)
            o = joint.output[asking].transpose(0, 1).to(p.dtype)
            dp = g @ _grouped_keys(v[asked], q.shape[1]).to(p.dtype).transpose(1, 2)
            ds = p * (dp - (g * o).sum(-1, keepdim=True)) * factor
            keys = _grouped_keys(k[asked], q.shape[1]).to(p.dtype)
            dq[asking] = (ds @ keys).transpose(0, 1).to(q.dtype)
            asks = q[asking].transpose(0, 1).to(p.dtype)
            for target, whole in ((dk, ds.transpose(1, 2) @ asks), (dv, p.transpose(1, 2) @ g)):
                shared = whole.unflatten(0, shape).sum(1)
                target[asked] += shared.transpose(0, 1).to(target.dtype)
        return dq, dk, dv

    def dense(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Attended:
        share = q.shape[1] // k.shape[2]
        keys, values = (t.repeat_interleave(share, 2).float() for t in (k, v))
        factor = q.shape[-1] ** -0.5 if scale is None else scale
        scores = torch.einsum("nhd,nmhd->nhm", q.float(), keys) * factor
        lse = scores.logsumexp(-1)
        weights = (scores - lse[..., None]).exp()
        return Attended(torch.einsum("nhm,nmhd->nhd", weights, values).to(q.dtype), lse)


class _CPU:
    """Torch's fused CPU attention; no copies but of few queries."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, block: AttentionBlock, scale: float | None
    ) -> Attended:
        found = Attended(torch.empty_like(q), _no_keys(q))
        for asking, asked in block.slices():
            if asked.stop == asked.start:
                found.output[asking] = 0
                continue
            folds = not block.causal and asking.stop - asking.start <= FEW_QUERIES
            asks = _fold(q[asking], k.shape[1]) if folds else _by_key_head(q[asking], k.shape[1])
            keys, values = (_shared(t[asked], asks.shape[1]) for t in (k, v))
            out, lse = _cpu(asks, keys, values, 0.0, block.causal, scale=scale)
            if folds:
                count, heads = asking.stop - asking.start, q.shape[1]
                out = out.view(k.shape[1], count, -1, q.shape[-1]).transpose(0, 1)
                found.output[asking] = out.reshape(count, heads, -1)
                lse = lse.view(k.shape[1], count, -1).transpose(0, 1)
                found.lse[asking] = lse.reshape(count, heads)
                continue
            _by_key_head(found.output[asking], k.shape[1]).copy_(out)
            found.lse[asking] = lse.flatten(0, 1).T
        return found

    def backward(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        joint: Attended,
        block: AttentionBlock,
        scale: float | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for asking, asked in block.slices():
            if asked.stop == asked.start:
                dq[asking] = 0
                continue
            g, asks, out = (_by_key_head(t[asking], k.shape[1]) for t in (grad, q, joint.output))
            keys, values = (_shared(t[asked], asks.shape[1]) for t in (k, v))
            lse = joint.lse[asking].T.unflatten(0, asks.shape[:2])
            parts = _cpu_backward(
                g, asks, keys, values, out, lse, 0.0, block.causal, scale=scale
            )  # fmt: skip
            _by_key_head(dq[asking], k.shape[1]).copy_(parts[0])
            dk[asked] += parts[1].sum(1).transpose(0, 1)
            dv[asked] += parts[2].sum(1).transpose(0, 1)
        return dq, dk, dv

    def dense(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Attended:
        keys, values = k.transpose(1, 2), v.transpose(1, 2)  # (n, key heads, m, size)
        asks = q.unflatten(1, (k.shape[2], -1))
        out, lse = _cpu(asks, keys, values, 0.0, False, scale=scale)
        return Attended(out.flatten(1, 2), lse.flatten(1, 2))


class _CUDA:
    """FlashAttention with variable lengths; one launch a block. Not run on a GPU yet."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, block: AttentionBlock, scale: float | None
    ) -> Attended:
        asking, asked = block.query_runs, block.key_runs
        found = _cuda(
            q, k, v, asking.cumulative, asked.cumulative, asking.longest, asked.longest,
            0.0, block.causal, False, scale=scale,
        )  # fmt: skip
        lse = found[1].T
        if block.has_empty_keys:  # FlashAttention gives +inf where a softmax is over nothing
            lse = lse.masked_fill(lse == torch.inf, -torch.inf)
        return Attended(found[0], lse)

    def backward(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        joint: Attended,
        block: AttentionBlock,
        scale: float | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        asking, asked = block.query_runs, block.key_runs
        no_dropout = torch.zeros(2, dtype=torch.uint64, device=q.device)
        parts: tuple[Tensor, Tensor, Tensor] = _cuda_backward(
            grad.contiguous(), q, k, v, joint.output.contiguous(), joint.lse.T.contiguous(),
            asking.cumulative, asked.cumulative, asking.longest, asked.longest,
            0.0, block.causal, no_dropout, no_dropout.new_empty(0), scale=scale,
        )  # fmt: skip
        return parts

    def dense(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Attended:
        found = _cuda(
            q[:, None], k, v, None, None, 1, k.shape[1], 0.0, False, False, scale=scale
        )  # fmt: skip
        return Attended(found[0][:, 0], found[1][..., 0])


MATH, CPU, CUDA = _Math(), _CPU(), _CUDA()


def _no_keys(q: Tensor) -> Tensor:
    """Log-sum-exp over nothing for each query and head."""
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return torch.full(q.shape[:2], -torch.inf, dtype=dtype, device=q.device)


def _scores(q: Tensor, k: Tensor, causal: bool, scale: float | None) -> Tensor:
    """Scaled scores ``(heads, n, m)``, at least float32."""
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    keys = _grouped_keys(k, q.shape[1]).to(dtype)
    scores = q.transpose(0, 1).to(dtype) @ keys.transpose(1, 2) * factor
    if causal:
        ahead = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(ahead, -torch.inf)
    return scores


def _grouped_keys(k: Tensor, heads: int) -> Tensor:
    """Keys ``(m, key heads, size)`` as ``(heads, m, size)``."""
    return k.transpose(0, 1).repeat_interleave(heads // k.shape[1], 0)


def _by_key_head(t: Tensor, key_heads: int) -> Tensor:
    """View ``(n, heads, size)`` as ``(key heads, heads a key head, n, size)``."""
    return t.unflatten(1, (key_heads, -1)).permute(1, 2, 0, 3)


def _fold(t: Tensor, key_heads: int) -> Tensor:
    """Copy ``(n, heads, size)`` as ``(key heads, 1, n * heads a key head, size)``."""
    return t.unflatten(1, (key_heads, -1)).transpose(0, 1).flatten(1, 2)[:, None]


def _shared(t: Tensor, share: int) -> Tensor:
    """View keys ``(m, key heads, size)`` as ``(key heads, share, m, size)``."""
    return t.transpose(0, 1)[:, None].expand(-1, share, -1, -1)
