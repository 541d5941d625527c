"""The rounding noise of a model on the machine at hand: the yardstick of every exactness probe.

Two right ways to compute the same thing differ by rounding, by how much depends on model, type and
processor. So a way is not held to a constant but to how far the model's own results move when texts run
in a batch of another shape and with the last bit of their embeddings changed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlaif_pl.engine.decoder_layers import embedding_of

# A way counts as right up to so many times the largest noise of a token. Right ways of 8 architectures
# were off by 1.04 times at most, in float32 and bfloat16; a scale that is wrong by a tenth by 3.6 times
# in bfloat16 (30 layers), by 67,000 in float32.
FACTOR = 3.0


class Noise:
    """How exact a model is on the machine at hand, by states ``(T, D)`` with one rounding and another.

    Each dimension is measured by its own noise, so that a few large ones hide no error of the others.
    ValueError where noise is as large as what tells tokens apart, or something is not a number.
    """

    def __init__(self, exact: Tensor, noisy: Tensor) -> None:
        self.exact = wide(exact)
        if not self.exact.isfinite().all():
            raise ValueError("its states of a text hold numbers that are not finite")
        noise = wide(noisy) - self.exact
        # Where all roundings happen to fall alike, the last bit of what is there stands for the noise.
        least = torch.finfo(exact.dtype).eps * _rms(self.exact, 0)
        self.scale = _rms(noise, 0).maximum(least).clamp(min=torch.finfo(torch.float32).tiny)
        self.largest = max(1.0, self._size(noise).max().item())
        spread = self._size(self.exact - self.exact.mean(0)).mean().item()
        if not spread > FACTOR * self.largest:
            raise ValueError(
                "its states of a text change from batch to batch as much as texts differ"
            )

    def error_of(self, found: Tensor) -> float:
        """Return the largest error of a token of ``(T, D)`` in units of the largest noise of one."""
        error = self._size(wide(found) - self.exact).max().item() / self.largest
        return error if error == error else float("inf")

    def _size(self, difference: Tensor) -> Tensor:
        return _rms(difference / self.scale, -1)


def error_in_noise(
    found: Tensor, exact: Tensor, again: Callable[[], Tensor], model: PreTrainedModel
) -> float:
    """Return how far a way is off, in units of the model's own noise; right ones are within ``FACTOR``.

    ``again`` computes ``exact`` ``(T, D)`` anew, best in a batch of another shape, with noise.
    """
    if torch.equal(found, exact):
        return 0.0
    return Noise(exact, with_noise(again, model)).error_of(found)


def with_noise(run: Callable[[], Tensor], model: PreTrainedModel) -> Tensor:
    """Return what a run gives with the last bits of the model's embeddings changed, if it has any."""
    module = embedding_of(model)
    if module is None:
        return run()
    hook = module.register_forward_hook(lambda _, __, output: change_last_bits(output))
    try:
        return run()
    finally:
        hook.remove()


def change_last_bits(output: Tensor) -> Tensor:
    """Multiply each number by one plus or minus the machine epsilon of its type, by chance."""
    signs = torch.randint(0, 2, output.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return output * (1 + signs.to(output) * torch.finfo(output.dtype).eps)


def word_ids(vocabulary: int, count: int, device: torch.device) -> Tensor:
    """Return ids ``(count,)`` from all over a vocabulary, so that few are special tokens."""
    return torch.arange(1, 1 + count, device=device) * vocabulary // (1 + count)


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor in float32, or in float64 where it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _rms(tensor: Tensor, dim: int) -> Tensor:
    return tensor.square().mean(dim).sqrt()
