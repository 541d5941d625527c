"""What a device computes, held to what the CPU computes and to how exact that is."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# How many times as far as the CPU's own rounding moves its results a device may be off. Another
# processor adds in another order and has other exponentials, so all roundings fall anew. Measured on
# a CPU: another right attention is off by 0.6 times, a scale of attention that is wrong by a thousandth
# by 1,300 times in float32, one that is wrong by a tenth by 3.5 times in bfloat16.
TIMES = {torch.float32: 20.0, torch.bfloat16: 3.0, torch.float16: 3.0}


def assert_within_noise(
    found: Tensor, exact: Tensor, noisy: Tensor, dtype: torch.dtype = torch.float32
) -> None:
    """Assert that results are the CPU's up to its rounding noise, by their root mean squares.

    Args:
        found: What the device computed, on any device.
        exact: The same on the CPU.
        noisy: The same on the CPU with the last bits of embeddings changed.
        dtype: Type that the model computes in.
    """
    found, exact, noisy = (tensor.detach().cpu().double() for tensor in (found, exact, noisy))
    assert found.shape == exact.shape
    noise, size = (noisy - exact).norm(), exact.norm()
    assert noise < 0.1 * size, f"the noise {noise:.1e} is no yardstick for results of {size:.1e}"
    # Where all roundings happen to fall alike, the last bit of what is there stands for the noise.
    allowed = TIMES[dtype] * max(noise.item(), torch.finfo(dtype).eps * size.item())
    error = (found - exact).norm().item()
    assert error <= allowed, f"off by {error:.2e} where rounding explains {allowed:.2e}"


def gradients(module: nn.Module) -> Tensor:
    """Return all gradients of a module in one row on the CPU."""
    parts = [p.grad.detach().cpu().flatten() for p in module.parameters() if p.grad is not None]
    return torch.cat(parts).double()


def packed(tensors: Iterable[Tensor]) -> Tensor:
    """Return tensors in one row on the CPU."""
    return torch.cat([tensor.detach().cpu().flatten().double() for tensor in tensors])
