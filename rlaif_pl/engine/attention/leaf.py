"""The one attention that everything is made of: runs of queries to runs of keys, with log-sum-exp.

One contract: ``MATH`` (plain products, any device and type), ``CPU`` (torch's fused attention, a call a
run) and ``CUDA`` (FlashAttention with variable lengths, one launch). Backward passes take output and
log-sum-exp of the *joint* softmax over all blocks that the queries ask: with ``p = exp(s - lse)`` and
``ds = p (dp - rowsum(dO * O))`` gradients are those of plain attention (arXiv 2205.14135, B.2).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlaif_pl.engine.attention.padding import Group, groups_of
from rlaif_pl.engine.batch import AttentionBlock
from rlaif_pl.ops import accumulator_dtype

FLASH_SIZE, FLASH_STEP = 256, 8  # of heads that FlashAttention takes: at most, and a multiple of
FLASH_CAPABILITY = 8, 0  # oldest GPU: Ampere
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


class Scoring(NamedTuple):
    """How scores are made of products."""

    scale: float | None = None  # one over the root of the head size where None
    window: int | None = None  # latest tokens that a token sees, itself included; None for all
    softcap: float | None = None  # scores become `cap * tanh(score / cap)`, as in Gemma 2

    def scale_for(self, query: Tensor) -> float:
        """Return the factor of products with a query."""
        return query.shape[-1] ** -0.5 if self.scale is None else self.scale


class Attended(NamedTuple):
    """Result of attention to some keys."""

    output: Tensor  # (n, heads, size), of the queries' type
    lse: Tensor  # (n, heads), log-sum-exp of the scores; float32, or float64 of float64


def leaf_for(query: Tensor) -> MathLeaf:
    """Return the implementation for a device, type and head size."""
    if query.device.type == "cpu":
        return CPU
    size = query.shape[-1]
    # What FlashAttention's C++ checks, and torch's wrappers pad.
    has_flash = (
        query.device.type == "cuda"
        and query.dtype in (torch.float16, torch.bfloat16)
        and size % FLASH_STEP == 0
        and size <= FLASH_SIZE
        and torch.cuda.get_device_capability(query.device) >= FLASH_CAPABILITY
    )
    return CUDA if has_flash else MATH


def nothing(query: Tensor) -> Attended:
    """Attention to no keys."""
    wide = accumulator_dtype(query.dtype)
    lse = query.new_full(query.shape[:2], -torch.inf, dtype=wide)
    return Attended(torch.zeros_like(query), lse)


def merge_attention_states(one: Attended, other: Attended) -> Attended:
    """Join the attention of the same queries to two sets of keys; no keys are a log-sum-exp of -inf."""
    joint = torch.logaddexp(one.lse, other.lse)
    if joint.device.type != "cpu":  # in half as many launches; a CPU keeps the bits that it has
        share = (other.lse - one.lse).sigmoid().nan_to_num(0.0)[..., None]
        mixed = torch.lerp(one.output.to(share.dtype), other.output.to(share.dtype), share)
    else:
        weights = [(part.lse - joint).exp().nan_to_num(0.0)[..., None] for part in (one, other)]
        mixed = weights[0] * one.output + weights[1] * other.output
    return Attended(mixed.to(one.output.dtype), joint)


class MathLeaf:
    """Scores as matrices, of many runs at once and in float32: for whatever has no fused kernel.

    Memory is bounded by ``padding.MOST_SCORES``, however long a text is. Autocast is to be off.
    """

    def forward(self, qkv: QKV, block: AttentionBlock, scale: float) -> Attended:
        """Attend; queries without keys get 0."""
        q, k, v = qkv
        wide = accumulator_dtype(q.dtype)
        # One row more than there are queries takes in what padding gives.
        output = q.new_zeros(len(q) + 1, q.shape[1], v.shape[-1])
        lse = q.new_full((len(q) + 1, q.shape[1]), -torch.inf, dtype=wide)
        for group in groups_of(block, q.shape[1], q.device):
            asks = group.queries.gather(q, k.shape[1], wide)
            keys, values = (group.keys.gather(t, k.shape[1], wide) for t in (k, v))
            scores = _scores(asks, keys, group, scale)
            own = scores.logsumexp(-1, keepdim=True)
            group.queries.scatter(_weights(scores, own) @ values, output)
            group.queries.scatter(own, lse[..., None])
        return Attended(output[:-1], lse[:-1])

    def backward(
        self, grad: Tensor, qkv: QKV, joint: Attended, block: AttentionBlock, scale: float
    ) -> QKV:
        """Gradients of queries, keys and values, given the joint result over all blocks."""
        q, k, v = qkv
        wide = accumulator_dtype(q.dtype)
        dq, dk, dv = (t.new_zeros(len(t) + 1, *t.shape[1:], dtype=wide) for t in qkv)
        for group in groups_of(block, q.shape[1], q.device):
            asks, g, o, lse = (
                group.queries.gather(t, k.shape[1], wide)
                for t in (q, grad, joint.output, joint.lse[..., None])
            )
            keys, values = (group.keys.gather(t, k.shape[1], wide) for t in (k, v))
            p = _weights(_scores(asks, keys, group, scale), lse)
            ds = g @ values.transpose(2, 3)
            ds.sub_((g * o).sum(-1, keepdim=True)).mul_(p).mul_(scale)
            group.queries.scatter(ds @ keys, dq)
            group.keys.scatter(ds.transpose(2, 3) @ asks, dk, add=True)
            group.keys.scatter(p.transpose(2, 3) @ g, dv, add=True)
        return dq[:-1].to(q.dtype), dk[:-1].to(k.dtype), dv[:-1].to(v.dtype)

    def dense(self, qkv: QKV, scale: float) -> Attended:
        """Attend from one query a text ``(n, heads, size)`` to keys ``(n, m, key heads, size)``."""
        q, k, v = (t.to(accumulator_dtype(t.dtype)) for t in qkv)
        scores = q.unflatten(1, (k.shape[2], -1)) @ k.permute(0, 2, 3, 1) * scale
        lse = scores.logsumexp(-1)
        found = (scores - lse[..., None]).exp() @ v.transpose(1, 2)
        return Attended(found.flatten(1, 2).to(qkv[0].dtype), lse.flatten(1, 2))


class _CPULeaf(MathLeaf):
    """Torch's fused CPU attention; no copies but of few queries."""

    def forward(self, qkv: QKV, block: AttentionBlock, scale: float) -> Attended:
        q, k, v = qkv
        found = nothing(q)
        for asking, asked in block.slices():
            count = asking.stop - asking.start
            folds = not block.causal and count <= FEW_QUERIES
            asks = _by_key_head(q[asking], k.shape[1])
            if folds:  # (key heads, 1, n * heads a key head, size)
                asks = asks.transpose(1, 2).flatten(1, 2)[:, None]
            keys, values = (_shared(t[asked], asks.shape[1]) for t in (k, v))
            out, lse = _cpu(asks, keys, values, 0.0, block.causal, scale=scale)
            if folds:
                out, lse = (t[:, 0].unflatten(1, (count, -1)).transpose(1, 2) for t in (out, lse))
            _by_key_head(found.output[asking], k.shape[1]).copy_(out)
            found.lse[asking] = lse.flatten(0, 1).T
        return found

    def backward(
        self, grad: Tensor, qkv: QKV, joint: Attended, block: AttentionBlock, scale: float
    ) -> QKV:
        if grad.element_size() < 4 and block.key_runs.longest <= SHORT_KEYS:
            q, k, v = (t.float() for t in qkv)
            widened = Attended(joint.output.float(), joint.lse)
            return self.backward(grad.float(), (q, k, v), widened, block, scale)
        q, k, v = qkv
        dq, dk, dv = map(torch.zeros_like, qkv)
        for asking, asked in block.slices():
            g, asks, out = (_by_key_head(t[asking], k.shape[1]) for t in (grad, q, joint.output))
            keys, values = (_shared(t[asked], asks.shape[1]) for t in (k, v))
            lse = joint.lse[asking].T.unflatten(0, asks.shape[:2])
            given = g, asks, keys, values, out, lse
            parts = _cpu_backward(*given, 0.0, block.causal, scale=scale)
            _by_key_head(dq[asking], k.shape[1]).copy_(parts[0])
            dk[asked] += parts[1].sum(1).transpose(0, 1)
            dv[asked] += parts[2].sum(1).transpose(0, 1)
        return dq, dk, dv

    def dense(self, qkv: QKV, scale: float) -> Attended:
        q, k, v = qkv
        asks = q.unflatten(1, (k.shape[2], -1))
        out, lse = _cpu(asks, k.transpose(1, 2), v.transpose(1, 2), 0.0, False, scale=scale)
        return Attended(out.flatten(1, 2), lse.flatten(1, 2))


class _CUDALeaf(MathLeaf):
    """FlashAttention with variable lengths; one launch a block. Not run on a GPU yet."""

    def forward(self, qkv: QKV, block: AttentionBlock, scale: float) -> Attended:
        asking, asked = block.query_runs, block.key_runs
        if asking.longest == 0:  # a grid of zero blocks is a launch error
            return nothing(qkv[0])
        # A bound of 1 lets FlashAttention fold heads that share keys into the one query of each run;
        # it refuses runs without a query then. The bound may be larger than the longest run.
        bound = 2 if asking.longest == 1 and 0 in asking.lengths else asking.longest
        cuts = asking.cumulative, asked.cumulative, bound, asked.longest
        found = _cuda(*qkv, *cuts, 0.0, block.causal, False, scale=scale)
        lse = found[1].T
        if block.has_empty_keys:  # FlashAttention gives +inf where a softmax is over nothing
            lse = lse.masked_fill(lse == torch.inf, -torch.inf)
        return Attended(found[0], lse)

    def backward(
        self, grad: Tensor, qkv: QKV, joint: Attended, block: AttentionBlock, scale: float
    ) -> QKV:
        asking, asked = block.query_runs, block.key_runs
        cuts = asking.cumulative, asked.cumulative, asking.longest, asked.longest
        given = grad.contiguous(), *qkv, joint.output.contiguous(), joint.lse.T.contiguous(), *cuts
        # The state of dropout, which is not read without one; 64 bits unsigned have few kernels.
        state = torch.empty(2, dtype=torch.uint64, device=grad.device)
        parts: QKV = _cuda_backward(
            *given, 0.0, block.causal, state, state.new_empty(0), scale=scale
        )
        return parts

    def dense(self, qkv: QKV, scale: float) -> Attended:
        q, k, v = qkv
        found = _cuda(q[:, None], k, v, None, None, 1, k.shape[1], 0.0, False, False, scale=scale)
        return Attended(found[0][:, 0], found[1][..., 0])


MATH, CPU, CUDA = MathLeaf(), _CPULeaf(), _CUDALeaf()


def _scores(q: Tensor, k: Tensor, group: Group, scale: float) -> Tensor:
    """Scaled scores ``(runs, key heads, heads a key head * n, m)``; -inf where a key is hidden."""
    scores, hidden = (q @ k.transpose(2, 3)).mul_(scale), group.hidden()
    if hidden is not None:
        scores.unflatten(2, (-1, hidden.shape[-2])).masked_fill_(hidden, -torch.inf)
    return scores


def _weights(scores: Tensor, lse: Tensor) -> Tensor:
    """Softmax in place, 0 also where all keys are hidden."""
    return scores.sub_(lse.clamp(min=torch.finfo(lse.dtype).min)).exp_()


def _by_key_head(t: Tensor, key_heads: int) -> Tensor:
    """View ``(n, heads, size)`` as ``(key heads, heads a key head, n, size)``."""
    return t.unflatten(1, (key_heads, -1)).permute(1, 2, 0, 3)


def _shared(t: Tensor, share: int) -> Tensor:
    """View keys ``(m, key heads, size)`` as ``(key heads, share, m, size)``."""
    return t.transpose(0, 1)[:, None].expand(-1, share, -1, -1)
