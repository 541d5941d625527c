"""Products with an output embedding, block by block, summed and kept in float32."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlaif_pl.ops.reference import accumulator_dtype

P = ParamSpec("P")
R = TypeVar("R")


class BlockSizes(NamedTuple):
    """How much of a product is made at a time."""

    logits: int  # in float32
    columns: int  # at least, below this a matrix product is slow

    @property
    def rows(self) -> int:
        """Most rows of a block."""
        return max(1, self.logits // self.columns)


CPU_BLOCKS = BlockSizes(1 << 21, 1024)  # 8 MB; twice that is no faster
GPU_COLUMNS = 4096
GPU_MOST_LOGITS = 1 << 25  # 128 MB: 38 blocks for 8,192 rows of 151,936, so launches cost little
GPU_SHARE = 1024  # of the device's memory, float32 logits may take one part in so many


@functools.cache
def device_memory(device: torch.device) -> int:
    """Bytes of a CUDA device, which sizes of batches follow; 0 on others, which take constants."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.get_device_properties(device).total_memory)


def block_sizes(weight: Tensor) -> BlockSizes:
    """Return how much of a product with an output embedding, of about six launches, is made at a time.

    A CPU wants a block that fits its cache, a GPU one that keeps it busy until the next is sent.
    """
    memory = device_memory(weight.device)
    if memory == 0:
        return CPU_BLOCKS
    # A power of two, so that boards of a kind agree whatever their firmware keeps for itself.
    logits = 1 << (memory // (4 * GPU_SHARE)).bit_length() - 1
    return BlockSizes(min(max(logits, CPU_BLOCKS.logits), GPU_MOST_LOGITS), GPU_COLUMNS)


def blocks(hidden: Tensor, weight: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield row and column ranges whose product, and widened embedding, stay at ``block_sizes``."""
    (num_columns, size), most = weight.shape, block_sizes(weight)
    for row in range(0, len(hidden), most.rows):
        rows = slice(row, min(row + most.rows, len(hidden)))
        entries = max(rows.stop - rows.start, size if _widens(weight) else 0)
        width = max(most.columns, most.logits // entries)
        for column in range(0, num_columns, width):
            yield rows, slice(column, min(column + width, num_columns))


def product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """``left @ right`` in the accumulator dtype of ``right``, without rounding to 16 bits between.

    On a GPU ``left`` is brought to the dtype of ``right``, and products of 16 bits take no ``out``.
    """
    acc = accumulator_dtype(right.dtype)
    if _multiplies_16_bits(right):
        return torch.mm(left.to(right.dtype), right, out_dtype=acc)
    return torch.mm(left.to(acc), right.to(acc), out=out)


class _Widened(torch.autograd.Function):
    """``hidden @ weight.T`` of 16 bits in float32, block by block on a CPU."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        if not _widens(weight):
            return product(hidden, weight.t())
        wide = hidden.to(accumulator_dtype(weight.dtype))
        logits = wide.new_empty(len(hidden), len(weight))
        for rows, columns, _, block_logits in block_products(wide, weight):
            logits[rows, columns] = block_logits
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        hidden, weight = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad
        slope = grad if _widens(weight) else grad.to(weight.dtype)
        dhidden = product(slope, weight).to(hidden.dtype) if needs_hidden else None
        dweight = product(slope.t(), hidden).to(weight.dtype) if needs_weight else None
        return dhidden, dweight


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left @ right`` in place; the sum stays in the dtype of ``total``."""
    if left.dtype == right.dtype == total.dtype == accumulator_dtype(total.dtype):
        total.addmm_(left, right)
    else:
        total.add_(product(left, right))


class Room(NamedTuple):
    """Uninitialized memory that every block uses again: fresh pages cost as much as the products."""

    logits: Tensor | None  # as many as the largest block has, unless a GPU multiplies 16 bits
    embedding: Tensor | None  # rows of the largest block, on a CPU that widens them


def make_room(hidden: Tensor, weight: Tensor) -> Room:
    """Return memory for the blocks of a product."""
    if _multiplies_16_bits(weight):
        return Room(None, None)
    acc = accumulator_dtype(weight.dtype)
    sizes = [(r.stop - r.start, c.stop - c.start) for r, c in blocks(hidden, weight)]
    logits = hidden.new_empty(max((r * c for r, c in sizes), default=0), dtype=acc)
    if not _widens(weight):
        return Room(logits, None)
    most = max((columns for _, columns in sizes), default=0)
    return Room(logits, weight.new_empty(most, weight.shape[1], dtype=acc))


def block_products(hidden: Tensor, weight: Tensor) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Yield rows, columns, embedding and logits of each block; the next one may overwrite these two.

    The embedding is of the type that products take: on a CPU no 16 bits.
    """
    room = make_room(hidden, weight)
    for rows, columns in blocks(hidden, weight):
        block = weight[columns]
        if room.embedding is not None:
            block = room.embedding[: len(block)].copy_(block)
        shape = rows.stop - rows.start, len(block)
        out = None if room.logits is None else room.logits[: shape[0] * shape[1]].view(shape)
        yield rows, columns, block, product(hidden[rows], block.t(), out)


def _multiplies_16_bits(weight: Tensor) -> bool:
    return weight.device.type == "cuda" and accumulator_dtype(weight.dtype) != weight.dtype


def _widens(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and accumulator_dtype(weight.dtype) != weight.dtype


def weight_gradient_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Return the dtype to sum an embedding's gradient in: a GPU rounds to 16 bits once, at the end."""
    in_parts = len(hidden) > block_sizes(weight).rows and _multiplies_16_bits(weight)
    return accumulator_dtype(weight.dtype) if in_parts else weight.dtype


_widened_weights: ContextVar[dict[int, tuple[Tensor, Tensor]] | None] = ContextVar(
    "widened_weights", default=None
)


@contextmanager
def widened_once() -> Iterator[None]:
    """Within, ``linear_logits`` widens a 16-bit embedding on a CPU once, and not again for each token.

    For the few rows of a token, widening takes longer than the product. Costs a float32 copy of the
    embedding; weights must not change meanwhile.
    """
    token = _widened_weights.set({})
    try:
        yield
    finally:
        _widened_weights.reset(token)


def without_autocast(kernel: Callable[P, R]) -> Callable[P, R]:
    """Let a kernel choose its types itself: autocast would round products to 16 bits."""

    @functools.wraps(kernel)
    def run(*args: P.args, **options: P.kwargs) -> R:
        first: Any = args[0]
        with torch.autocast(first.device.type, enabled=False):
            return kernel(*args, **options)

    return run


@without_autocast
def linear_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``hidden @ weight.T + bias`` in float32, for readers of whole rows of logits.

    Args:
        hidden: ``(N, D)`` floating
        weight: Output embedding, of the dtype of ``hidden``. ``(V, D)``
        bias: Of the output embedding, floating. ``(V,)``

    Returns:
        Logits ``(N, V)``, float32 or float64; those of 16-bit inputs are not rounded again.
    """
    acc = accumulator_dtype(weight.dtype)
    kept = _widened_weights.get()
    if kept is not None and _widens(weight) and not torch.is_grad_enabled():
        if id(weight) not in kept:  # with the weight, so that no other one gets its identity
            kept[id(weight)] = weight, weight.to(acc)
        weight = kept[id(weight)][1]
    if weight.dtype == acc:
        logits = product(hidden, weight.t())
    else:
        logits = _Widened.apply(hidden if _widens(weight) else hidden.to(weight.dtype), weight)
    return logits if bias is None else logits + bias.to(acc)
