"""Preference loss, forward and backward, against the best eager form in PyTorch.

    python benchmarks/pairwise_ce.py

The eager form is ``softplus(m) - p * m``, one term where the usual one has two; a mean is taken and
its gradient in both scores computed. Ours also gives accuracy and margin, eager does not.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from timing import medians, report
from torch import Tensor

from rlaif_pl import ops


def eager(first: Tensor, second: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Mean loss and its gradients by eager ops."""
    margin = first - second
    loss = (F.softplus(margin) - target * margin).mean()
    return loss, *torch.autograd.grad(loss, (first, second))


def fused(first: Tensor, second: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Mean loss and its gradients by the fused op."""
    loss = ops.pairwise_ce_sums(first, second, target).loss / len(first)
    return loss, *torch.autograd.grad(loss, (first, second))


def each(first: Tensor, second: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Mean of the fused op's losses, one a pair, and its gradients."""
    loss = ops.pairwise_ce(first, second, target).mean()
    return loss, *torch.autograd.grad(loss, (first, second))


def main() -> None:
    """Check, time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=31)
    repeats = parser.parse_args().repeats
    seconds, ratios = {}, {}
    for n, inner in ((64, 200), (1 << 20, 1)):
        first, second = (3 * torch.randn(2, n)).unbind()
        args = first.requires_grad_(), second.detach().clone().requires_grad_(), torch.rand(n)
        want = eager(*args)
        for way in (fused, each):
            torch.testing.assert_close(way(*args), want, rtol=2e-5, atol=1e-9)
        ways = {
            f"{way.__name__} {n}": (lambda w=way, a=args: w(*a)) for way in (eager, fused, each)
        }
        seconds |= medians(ways, repeats, inner)
    ratios["sums: speedup over eager, 2^20 pairs"] = (
        seconds["eager 1048576"] / seconds["fused 1048576"]
    )
    ratios["losses: speedup over eager, 2^20 pairs"] = (
        seconds["eager 1048576"] / seconds["each 1048576"]
    )
    ratios["sums: time over eager, 64 pairs"] = seconds["fused 64"] / seconds["eager 64"]
    ratios["losses: time over eager, 64 pairs"] = seconds["each 64"] / seconds["eager 64"]
    report("pairwise_ce", seconds, ratios)


if __name__ == "__main__":
    main()
