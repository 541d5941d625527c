"""The claimed Apple GPU refuses what a real one does, and computes what the CPU does."""

import pytest
import torch
from torch import nn

from rlaif_pl.engine.batch import to_device


def test_it_computes_what_the_cpu_does(apple_gpu):
    layer = nn.Linear(4, 3).requires_grad_(False)
    inputs = torch.randn(2, 4)
    want = layer(inputs)
    there = layer.to("mps")(inputs.to("mps"))
    assert there.device == apple_gpu.place
    torch.testing.assert_close(there.cpu(), want)
    assert there.tolist() == want.tolist()
    held = torch.zeros(2, 3, device="mps")
    held[:, 1:] = there[:, 1:]
    assert held[:, 1:].tolist() == want[:, 1:].tolist()


def test_it_refuses_tensors_of_the_cpu(apple_gpu):
    with pytest.raises(RuntimeError, match="got one on the CPU"):
        torch.ones(2, device="mps") + torch.ones(2)


def test_it_has_no_float64(apple_gpu):
    for make in (
        lambda: torch.ones(2, device="mps").double(),
        lambda: torch.ones(2, dtype=torch.float64).to("mps"),
        lambda: torch.ones(2, dtype=torch.float64, device="mps"),
        lambda: torch.ones(2, device="mps").sum(dtype=torch.float64),
        lambda: torch.ones(2, device="mps").to("cpu", torch.float64),
    ):
        with pytest.raises(TypeError, match="float64"):
            make()


def test_its_numbers_are_not_readable_in_place(apple_gpu):
    with pytest.raises((RuntimeError, TypeError)):
        torch.ones(2, device="mps").numpy()


def test_lists_are_moved_in_a_copy_that_is_waited_for(apple_gpu):
    (there,) = to_device([[1, 2, 3]], "mps")  # what they were copied from is freed at once
    assert there.device == apple_gpu.place
    assert there.tolist() == [1, 2, 3]
