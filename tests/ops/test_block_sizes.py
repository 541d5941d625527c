"""How much of a product with an output embedding is made at a time, by device."""

import pytest
import torch

from rlaif_pl.ops import _products

GIB = 1 << 30


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU, for machines without one."""

    device = torch.device("cuda", 0)


def shaped(rows, columns, size=64, dtype=torch.bfloat16, kind=OnGpu):
    """Hidden states and an embedding that take no memory."""
    one = torch.zeros(1, dtype=dtype).expand
    return one(rows, size).as_subclass(kind), one(columns, size).as_subclass(kind)


@pytest.fixture
def gpu_of(monkeypatch):
    """Stand in for a GPU of so many bytes."""

    def set_memory(memory):
        monkeypatch.setattr(
            _products, "device_memory", lambda device: memory if device.type == "cuda" else 0
        )

    return set_memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cpu_keeps_blocks_that_fit_its_cache(dtype, gpu_of):
    gpu_of(139 * GIB)  # a GPU beside it changes nothing
    hidden, weight = shaped(3000, 5000, 64, dtype, torch.Tensor)
    found = [(r.start, r.stop, c.start, c.stop) for r, c in _products.blocks(hidden, weight)]
    first = [(0, 2048, c, min(c + 1024, 5000)) for c in range(0, 5000, 1024)]
    second = [(2048, 3000, c, min(c + 2202, 5000)) for c in range(0, 5000, 2202)]
    assert found == first + second


@pytest.mark.parametrize(
    ("memory", "logits"),
    [
        (2 * GIB, 1 << 21),
        (16 * GIB, 1 << 22),
        (23.6 * GIB, 1 << 22),
        (79 * GIB, 1 << 24),
        (139 * GIB, 1 << 25),
        (1139 * GIB, 1 << 25),
    ],
)
def test_a_gpus_memory_chooses_its_blocks(memory, logits, gpu_of):
    gpu_of(int(memory))
    _, weight = shaped(1, 1)
    assert _products.block_sizes(weight) == (logits, 4096)
    assert _products.block_sizes(weight).rows == logits // 4096


def test_a_gpu_gets_few_blocks_and_none_above_the_bound(gpu_of):
    gpu_of(139 * GIB)
    pairs = list(_products.blocks(*shaped(8192, 151_936)))
    assert len(pairs) == 38  # 596 of a CPU's size
    sizes = [(r.stop - r.start) * (c.stop - c.start) for r, c in pairs]
    assert max(sizes) <= 1 << 25
    assert sum(sizes) == 8192 * 151_936


def test_a_gpu_has_no_room_for_16_bit_products_which_would_leave_it_unused(gpu_of):
    gpu_of(139 * GIB)
    assert _products.make_room(*shaped(8, 100)) == (None, None)
    room = _products.make_room(*shaped(8, 100, dtype=torch.float32))
    assert room.logits.shape == (800,)
    assert room.embedding is None


@pytest.mark.parametrize(
    ("rows", "dtype", "kind", "summed"),
    [
        (8192, torch.bfloat16, OnGpu, torch.bfloat16),
        (8193, torch.bfloat16, OnGpu, torch.float32),
        (8193, torch.float32, OnGpu, torch.float32),
        (8193, torch.float64, OnGpu, torch.float64),
        (8193, torch.bfloat16, torch.Tensor, torch.bfloat16),
    ],
    ids=str,
)
def test_a_gpu_rounds_the_gradient_of_an_embedding_once(rows, dtype, kind, summed, gpu_of):
    gpu_of(139 * GIB)
    assert _products.weight_gradient_dtype(*shaped(rows, 16, 4, dtype, kind)) == summed
