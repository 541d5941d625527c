"""The one attention that everything is made of: runs of queries to runs of keys, with log-sum-exp.

Three implementations of one contract: ``MATH`` (the definition, any device and type), ``CPU`` (torch's
fused CPU attention, a call a run) and ``CUDA`` (FlashAttention with variable lengths, one launch).

The backward passes take the output and log-sum-exp of the *joint* softmax over all blocks that the
queries ask. With ``s`` the scores, ``p = exp(s - lse)`` needs no more of the other blocks than the
joint ``lse``, and ``ds = p (dp - rowsum(dO * O))`` no more than the joint output (Dao et al. 2022,
arXiv 2205.14135, appendix B.2): each block's gradients are those of plain attention.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlaif_pl.engine.batch import AttentionBlock

FEW_QUERIES = 16  # up to here a CPU call folds the heads of a key head into its queries
# Up to here torch's CPU kernel is slower back in 16 bits than in float32 (5 times with 20 to 90 keys,
# on AVX-512 with bfloat16). Elsewhere the border may lie otherwise; float32 is never less exact.
SHORT_KEYS = 256
# Queries (n, heads, size), keys and values (m, key heads, size), of a block alone; or their gradients.
# Heads are a multiple of key heads, whose keys several heads share.
QKV = tuple[Tensor, Tensor, Tensor]

_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_cpu_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
_cuda = torch.ops.aten._flash_attention_forward.default
_cuda_backward = torch.ops.aten._flash_attention_backward.default


class Attended(NamedTuple):
    """Result of attention to some keys."""

    output: Tensor  # (n, heads, size), of the queries' type
    lse: Tensor  # (n, heads), log-sum-exp of the scores; float32, or float64 of float64


def leaf_for(query: Tensor) -> MathLeaf:
    """Return the implementation for a device and type."""
    if query.device.type == "cpu":
        return CPU
    if query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16):
        return CUDA
    return MATH


def no_keys(query: Tensor) -> Tensor:
    """Log-sum-exp over nothing for each query and head. ``(n, heads)``."""
    return query.new_full(query.shape[:2], -torch.inf, dtype=_wide(query))


def merge_attention_states(one: Attended, other: Attended) -> Attended:
    """Join the attention of the same queries to two sets of keys; no keys are a log-sum-exp of -inf."""
    joint = torch.logaddexp(one.lse, other.lse)
    weights = [(part.lse - joint).exp().nan_to_num(0.0)[..., None] for part in (one, other)]
    mixed = weights[0] * one.output + weights[1] * other.output
    return Attended(mixed.to(one.output.dtype), joint)


class MathLeaf:
    """Scores as a matrix, run by run: what the others compute, too."""

    def forward(self, qkv: QKV, block: AttentionBlock, scale: float) -> Attended:
        """Attend; queries without keys get 0."""
        q, k, v = qkv
        found = Attended(q.new_zeros(*q.shape[:2], v.shape[-1]), no_keys(q))
        for asking, asked in block.slices():
            scores = _scores(q[asking], k[asked], block.causal, scale)
            lse = scores.logsumexp(-1)
            weights = (scores - lse[..., None]).exp().nan_to_num(0.0)
            values = _grouped(v[asked], q.shape[1]).to(weights.dtype)
            found.output[asking] = (weights @ values).transpose(0, 1).to(q.dtype)
            found.lse[asking] = lse.transpose(0, 1)
        return found

    def backward(
        self, grad: Tensor, qkv: QKV, joint: Attended, block: AttentionBlock, scale: float
    ) -> QKV:
        """Gradients of queries, keys and values, given the joint result over all blocks."""
        q, k, v = qkv
        dq, dk, dv = map(torch.zeros_like, qkv)
        shape = k.shape[1], q.shape[1] // k.shape[1]
        for asking, asked in block.slices():
            scores = _scores(q[asking], k[asked], block.causal, scale)
            p = (scores - joint.lse[asking].T[..., None]).exp()
            parts = (grad[asking], joint.output[asking], q[asking])
            g, o, asks = (t.transpose(0, 1).to(p.dtype) for t in parts)
            keys, values = (_grouped(t[asked], q.shape[1]).to(p.dtype) for t in (k, v))
            ds = p * (g @ values.transpose(1, 2) - (g * o).sum(-1, keepdim=True)) * scale
            dq[asking] = (ds @ keys).transpose(0, 1).to(q.dtype)
            for target, whole in ((dk, ds.transpose(1, 2) @ asks), (dv, p.transpose(1, 2) @ g)):
                shared = whole.unflatten(0, shape).sum(1)
                target[asked] += shared.transpose(0, 1).to(target.dtype)
        return dq, dk, dv

    def dense(self, qkv: QKV, scale: float) -> Attended:
        """Attend from one query a text ``(n, heads, size)`` to keys ``(n, m, key heads, size)``."""
        q, k, v = qkv
        keys, values = (t.repeat_interleave(q.shape[1] // k.shape[2], 2).float() for t in (k, v))
        scores = torch.einsum("nhd,nmhd->nhm", q.float(), keys) * scale
        lse = scores.logsumexp(-1)
        weights = (scores - lse[..., None]).exp()
        return Attended(torch.einsum("nhm,nmhd->nhd", weights, values).to(q.dtype), lse)


class CPULeaf(MathLeaf):
    """Torch's fused CPU attention; no copies but of few queries."""

    def forward(self, qkv: QKV, block: AttentionBlock, scale: float) -> Attended:
        """See ``MathLeaf``."""
        q, k, v = qkv
        heads, size = q.shape[1:]
        found = Attended(torch.empty_like(q), no_keys(q))
        for asking, asked in block.slices():
            if asked.stop == asked.start:
                found.output[asking] = 0
                continue
            count = asking.stop - asking.start
            folds = not block.causal and count <= FEW_QUERIES
            asks = _by_key_head(q[asking], k.shape[1])
            if folds:  # (key heads, 1, n * heads a key head, size)
                asks = asks.transpose(1, 2).flatten(1, 2)[:, None]
            keys, values = (_shared(t[asked], asks.shape[1]) for t in (k, v))
            out, lse = _cpu(asks, keys, values, 0.0, block.causal, scale=scale)
            if folds:
                out = out.view(k.shape[1], count, -1, size).transpose(0, 1)
                lse = lse.view(k.shape[1], count, -1).transpose(0, 1)
                found.output[asking], found.lse[asking] = (
                    out.reshape(count, heads, size),
                    lse.reshape(count, heads),
                )
            else:
                _by_key_head(found.output[asking], k.shape[1]).copy_(out)
                found.lse[asking] = lse.flatten(0, 1).T
        return found

    def backward(
        self, grad: Tensor, qkv: QKV, joint: Attended, block: AttentionBlock, scale: float
    ) -> QKV:
        """See ``MathLeaf``."""
        if grad.element_size() < 4 and block.key_runs.longest <= SHORT_KEYS:
            wide = grad.float(), qkv[0].float(), qkv[1].float(), qkv[2].float()
            widened = Attended(joint.output.float(), joint.lse)
            return self.backward(wide[0], wide[1:], widened, block, scale)
        q, k, v = qkv
        dq, dk, dv = map(torch.zeros_like, qkv)
        for asking, asked in block.slices():
            if asked.stop == asked.start:
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

    def dense(self, qkv: QKV, scale: float) -> Attended:
        """See ``MathLeaf``."""
        q, k, v = qkv
        asks = q.unflatten(1, (k.shape[2], -1))
        out, lse = _cpu(asks, k.transpose(1, 2), v.transpose(1, 2), 0.0, False, scale=scale)
        return Attended(out.flatten(1, 2), lse.flatten(1, 2))


class CUDALeaf(MathLeaf):
    """FlashAttention with variable lengths; one launch a block. Not run on a GPU yet."""

    def forward(self, qkv: QKV, block: AttentionBlock, scale: float) -> Attended:
        """See ``MathLeaf``."""
        asking, asked = block.query_runs, block.key_runs
        if asking.longest == 0:  # a grid of zero blocks is a launch error
            return Attended(torch.empty_like(qkv[0]), no_keys(qkv[0]))
        # A bound of 1 lets FlashAttention fold heads that share keys into the one query of each run;
        # it refuses runs without a query then. The bound may be larger than the longest run.
        bound = 2 if asking.longest == 1 and 0 in asking.lengths else asking.longest
        found = _cuda(
            *qkv, asking.cumulative, asked.cumulative, bound, asked.longest,
            0.0, block.causal, False, scale=scale,
        )  # fmt: skip
        lse = found[1].T
        if block.has_empty_keys:  # FlashAttention gives +inf where a softmax is over nothing
            lse = lse.masked_fill(lse == torch.inf, -torch.inf)
        return Attended(found[0], lse)

    def backward(
        self, grad: Tensor, qkv: QKV, joint: Attended, block: AttentionBlock, scale: float
    ) -> QKV:
        """See ``MathLeaf``."""
        asking, asked = block.query_runs, block.key_runs
        # The state of dropout, which is not read without one; 64 bits unsigned have few kernels.
        no_dropout = torch.empty(2, dtype=torch.uint64, device=grad.device)
        parts: QKV = _cuda_backward(
            grad.contiguous(), *qkv, joint.output.contiguous(), joint.lse.T.contiguous(),
            asking.cumulative, asked.cumulative, asking.longest, asked.longest,
            0.0, block.causal, no_dropout, no_dropout.new_empty(0), scale=scale,
        )  # fmt: skip
        return parts

    def dense(self, qkv: QKV, scale: float) -> Attended:
        """See ``MathLeaf``."""
        q, k, v = qkv
        found = _cuda(
            q[:, None], k, v, None, None, 1, k.shape[1], 0.0, False, False, scale=scale
        )  # fmt: skip
        return Attended(found[0][:, 0], found[1][..., 0])


MATH, CPU, CUDA = MathLeaf(), CPULeaf(), CUDALeaf()


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _scores(q: Tensor, k: Tensor, causal: bool, scale: float) -> Tensor:
    """Scaled scores ``(heads, n, m)``, at least float32."""
    keys = _grouped(k, q.shape[1]).to(_wide(q))
    scores = q.transpose(0, 1).to(_wide(q)) @ keys.transpose(1, 2) * scale
    if causal:
        ahead = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(ahead, -torch.inf)
    return scores


def _grouped(k: Tensor, heads: int) -> Tensor:
    """Keys ``(m, key heads, size)`` as ``(heads, m, size)``."""
    return k.transpose(0, 1).repeat_interleave(heads // k.shape[1], 0)


def _by_key_head(t: Tensor, key_heads: int) -> Tensor:
    """View ``(n, heads, size)`` as ``(key heads, heads a key head, n, size)``."""
    return t.unflatten(1, (key_heads, -1)).permute(1, 2, 0, 3)


def _shared(t: Tensor, share: int) -> Tensor:
    """View keys ``(m, key heads, size)`` as ``(key heads, share, m, size)``."""
    return t.transpose(0, 1)[:, None].expand(-1, share, -1, -1)
