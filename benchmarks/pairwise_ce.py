"""Preference loss, forward and backward, against the best eager form in PyTorch.

    python benchmarks/pairwise_ce.py

The eager form is ``softplus(m) - p * m``, one term where the usual one has two; a mean is taken and
its gradient in both scores computed. Ours three ways: ``mean`` (``reduction="mean"``, what eager
does), ``sums`` (also accuracy and margin; the caller divides), ``losses`` (each loss; the caller
takes the mean). ``logged`` is eager with accuracy and margin beside the loss, as a trainer logs
them: the work that ``sums`` does.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from timing import keep_memory, report, timings
from torch import Tensor

from rlaif_pl import ops


def eager(first: Tensor, second: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Mean loss and its gradients by eager ops."""
    margin = first - second
    loss = (F.softplus(margin) - target * margin).mean()
    return loss, *torch.autograd.grad(loss, (first, second))


def logged(first: Tensor, second: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """What ``eager`` gives, and before it the sums that a trainer logs."""
    margin = first - second
    with torch.no_grad():
        ((margin > 0) == (target > 0.5)).sum(), margin.sum()
    loss = (F.softplus(margin) - target * margin).mean()
    return loss, *torch.autograd.grad(loss, (first, second))


def sums(first: Tensor, second: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Mean loss and its gradients by the fused op."""
    loss = ops.pairwise_ce_sums(first, second, target).loss / len(first)
    return loss, *torch.autograd.grad(loss, (first, second))


def mean(first: Tensor, second: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Mean loss and its gradients by the fused op, nothing else asked for."""
    loss = ops.pairwise_ce(first, second, target, reduction="mean")
    return loss, *torch.autograd.grad(loss, (first, second))


def losses(first: Tensor, second: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Mean of the fused op's losses, one a pair, and its gradients."""
    loss = ops.pairwise_ce(first, second, target).mean()
    return loss, *torch.autograd.grad(loss, (first, second))


def main() -> None:
    """Check, time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=31)
    repeats = parser.parse_args().repeats
    keep_memory()
    seconds, ratios = {}, {}
    for n, inner in ((64, 200), (1 << 20, 1)):
        first, second = (3 * torch.randn(2, n)).unbind()
        args = first.requires_grad_(), second.detach().clone().requires_grad_(), torch.rand(n)
        want = eager(*args)
        for way in (mean, sums, losses):
            torch.testing.assert_close(way(*args), want, rtol=2e-5, atol=1e-9)
        ways = {
            f"{way.__name__} {n}": (lambda w=way, a=args: w(*a))
            for way in (eager, logged, mean, sums, losses)
        }
        seconds |= timings(ways, repeats, inner)
    for way in ("mean", "sums", "losses"):
        speedup = seconds["eager 1048576"] / seconds[f"{way} 1048576"]
        ratios[f"{way}: speedup over eager, 2^20 pairs"] = speedup
        ratios[f"{way}: time over eager, 64 pairs"] = seconds[f"{way} 64"] / seconds["eager 64"]
    fused = seconds["logged 1048576"] / seconds["sums 1048576"]
    ratios["sums: speedup over eager with accuracy and margin, 2^20 pairs"] = fused
    few = seconds["sums 64"] / seconds["logged 64"]
    ratios["sums: time over eager with accuracy and margin, 64 pairs"] = few
    report("pairwise_ce", seconds, ratios)


if __name__ == "__main__":
    main()
