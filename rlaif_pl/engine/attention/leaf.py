"""The one attention that everything is made of: runs of queries to runs of keys, with log-sum-exp.

Three implementations of one contract: ``MATH`` (plain products, any device and type), ``CPU`` (torch's
fused CPU attention, a call a run) and ``CUDA`` (FlashAttention with variable lengths, one launch).

The backward passes take the output and log-sum-exp of the *joint* softmax over all blocks that the
queries ask. With ``s`` the scores, ``p = exp(s - lse)`` needs no more of the other blocks than the
joint ``lse``, and ``ds = p (dp - rowsum(dO * O))`` no more than the joint output (Dao et al. 2022,
arXiv 2205.14135, appendix B.2): each block's gradients are those of plain attention.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from rlaif_pl.engine.attention.padding import Group, Places, groups_of
from rlaif_pl.engine.batch import AttentionBlock

P = ParamSpec("P")
R = TypeVar("R")
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


class Attended(NamedTuple):
    """Result of attention to some keys."""

    output: Tensor  # (n, heads, size), of the queries' type
    lse: Tensor  # (n, heads), log-sum-exp of the scores; float32, or float64 of float64


def leaf_for(query: Tensor) -> MathLeaf:
    """Return the implementation for a device, type and head size."""
    if query.device.type == "cpu":
        return CPU
    return CUDA if query.device.type == "cuda" and _has_flash(query) else MATH


def _has_flash(query: Tensor) -> bool:
    """Whether FlashAttention takes a query: what its C++ checks, and torch's wrappers pad."""
    size = query.shape[-1]
    return (
        query.dtype in (torch.float16, torch.bfloat16)
        and size % FLASH_STEP == 0
        and size <= FLASH_SIZE
        and torch.cuda.get_device_capability(query.device) >= FLASH_CAPABILITY
    )


def no_keys(query: Tensor) -> Tensor:
    """Log-sum-exp over nothing for each query and head. ``(n, heads)``."""
    return query.new_full(query.shape[:2], -torch.inf, dtype=_wide(query))


def merge_attention_states(one: Attended, other: Attended) -> Attended:
    """Join the attention of the same queries to two sets of keys; no keys are a log-sum-exp of -inf."""
    joint = torch.logaddexp(one.lse, other.lse)
    if joint.device.type != "cpu":  # in half as many launches; a CPU keeps the bits that it has
        share = (other.lse - one.lse).sigmoid().nan_to_num(0.0)[..., None]
        mixed = torch.lerp(one.output.to(share.dtype), other.output.to(share.dtype), share)
        return Attended(mixed.to(one.output.dtype), joint)
    weights = [(part.lse - joint).exp().nan_to_num(0.0)[..., None] for part in (one, other)]
    mixed = weights[0] * one.output + weights[1] * other.output
    return Attended(mixed.to(one.output.dtype), joint)


def _widely(function: Callable[P, R]) -> Callable[P, R]:
    """Let a leaf's products keep the type of their factors: autocast would round them to 16 bits."""

    @functools.wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> R:
        first: Any = args[1]
        device = (first[0] if isinstance(first, tuple) else first).device.type
        with torch.autocast(device, enabled=False):
            return function(*args, **options)

    return run


class MathLeaf:
    """Scores as matrices, of many runs at once and in float32: for whatever has no fused kernel.

    Memory is bounded by ``padding.MOST_SCORES``, however long a text is.
    """

    @_widely
    def forward(self, qkv: QKV, block: AttentionBlock, scale: float) -> Attended:
        """Attend; queries without keys get 0."""
        q, _, v = qkv
        heads = q.shape[1]
        # One row more than there are queries takes in what padding gives.
        output = q.new_zeros(len(q) + 1, heads, v.shape[-1])
        lse = q.new_full((len(q) + 1, heads), -torch.inf, dtype=_wide(q))
        for group in groups_of(block, heads, q.device):
            asks, keys, values = _sides(qkv, group)
            scores, hidden = _scores(asks, keys, group, scale)
            own = scores.logsumexp(-1, keepdim=True)
            weights = _visible(scores.sub_(own).exp_(), hidden)
            found = _spread(weights @ values, group.queries, heads).to(q.dtype)
            output.index_copy_(0, group.queries.put, found)
            lse.index_copy_(0, group.queries.put, _spread(own, group.queries, heads)[..., 0])
        return Attended(output[:-1], lse[:-1])

    @_widely
    def backward(
        self, grad: Tensor, qkv: QKV, joint: Attended, block: AttentionBlock, scale: float
    ) -> QKV:
        """Gradients of queries, keys and values, given the joint result over all blocks."""
        q, k, v = qkv
        heads, key_heads = q.shape[1], k.shape[1]
        dq, dk, dv = (t.new_zeros(len(t) + 1, *t.shape[1:], dtype=_wide(q)) for t in qkv)
        for group in groups_of(block, heads, q.device):
            asks, keys, values = _sides(qkv, group)
            queries = grad, joint.output, joint.lse[..., None]
            g, o, lse = (_gathered(t, group.queries, key_heads, _wide(q)) for t in queries)
            scores, hidden = _scores(asks, keys, group, scale)
            p = _visible(scores.sub_(lse).exp_(), hidden)
            ds = g @ values.transpose(2, 3)
            ds.sub_((g * o).sum(-1, keepdim=True)).mul_(p).mul_(scale)
            dq.index_copy_(0, group.queries.put, _spread(ds @ keys, group.queries, heads))
            for target, part in ((dk, ds.transpose(2, 3) @ asks), (dv, p.transpose(2, 3) @ g)):
                target.index_add_(0, group.keys.put, _spread(part, group.keys, key_heads))
        return dq[:-1].to(q.dtype), dk[:-1].to(k.dtype), dv[:-1].to(v.dtype)

    @_widely
    def dense(self, qkv: QKV, scale: float) -> Attended:
        """Attend from one query a text ``(n, heads, size)`` to keys ``(n, m, key heads, size)``."""
        q, k, v = qkv
        asks = q.unflatten(1, (k.shape[2], -1)).to(_wide(q))
        keys, values = (t.transpose(1, 2).to(_wide(q)) for t in (k, v))
        scores = asks @ keys.transpose(2, 3) * scale
        lse = scores.logsumexp(-1)
        found = (scores - lse[..., None]).exp() @ values
        return Attended(found.flatten(1, 2).to(q.dtype), lse.flatten(1, 2))


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


def _gathered(t: Tensor, places: Places, key_heads: int, dtype: torch.dtype) -> Tensor:
    """Take tokens ``(T, heads, size)`` as ``(runs, key heads, heads a key head * longest, size)``."""
    rows = t.index_select(0, places.taken).view(*places.shape, key_heads, -1, t.shape[-1])
    return rows.permute(0, 2, 3, 1, 4).flatten(2, 3).to(dtype)


def _sides(qkv: QKV, group: Group) -> QKV:
    """Gather queries, keys and values of a group, at least in float32."""
    places = group.queries, group.keys, group.keys
    q, k, v = (
        _gathered(t, place, qkv[1].shape[1], _wide(t)) for t, place in zip(qkv, places, strict=True)
    )
    return q, k, v


def _spread(found: Tensor, places: Places, heads: int) -> Tensor:
    """Undo ``_gathered``, padding included: ``(runs * longest, heads, size)``."""
    runs, longest = places.shape
    rows = found.unflatten(2, (-1, longest)).permute(0, 3, 1, 2, 4)
    return rows.reshape(runs * longest, heads, -1)


def _scores(q: Tensor, k: Tensor, group: Group, scale: float) -> tuple[Tensor, Tensor | None]:
    """Scaled scores ``(runs, key heads, heads a key head * n, m)`` and what is hidden of them."""
    scores, hidden = (q @ k.transpose(2, 3)).mul_(scale), group.hidden()
    if hidden is not None:
        scores.unflatten(2, (-1, hidden.shape[-2])).masked_fill_(hidden, -torch.inf)
    return scores, hidden


def _visible(weights: Tensor, hidden: Tensor | None) -> Tensor:
    """Leave hidden weights out, also where all of a row are hidden, which are not a number."""
    if hidden is not None:
        weights.unflatten(2, (-1, hidden.shape[-2])).masked_fill_(hidden, 0.0)
    return weights


def _by_key_head(t: Tensor, key_heads: int) -> Tensor:
    """View ``(n, heads, size)`` as ``(key heads, heads a key head, n, size)``."""
    return t.unflatten(1, (key_heads, -1)).permute(1, 2, 0, 3)


def _shared(t: Tensor, share: int) -> Tensor:
    """View keys ``(m, key heads, size)`` as ``(key heads, share, m, size)``."""
    return t.transpose(0, 1)[:, None].expand(-1, share, -1, -1)
