"""Preference loss, forward and backward, against the best eager form in PyTorch.

    python benchmarks/pairwise_ce.py

The eager form is ``softplus(m) - p * m``, one term where the usual one has two; a mean is taken and
its gradient in both scores computed. Ours three ways: ``mean`` (``reduction="mean"``, what eager
does), ``sums`` (also accuracy and margin; the caller divides), ``losses`` (each loss; the caller
takes the mean). ``logged`` is eager with accuracy and margin beside the loss, as a trainer logs
them: the work that ``sums`` does.

    python benchmarks/pairwise_ce.py --device cuda

measures on a GPU, where the eager form that torch.compile fuses joins (on a CPU: ``--compile``). There,
times of a call include its launches, and "GPU's own" ones are of calls that are queued ahead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from device import Place, add_device_options, place_of
from timing import check_gap, fitting, keep_memory, report, timings
from torch import Tensor

from rlaif_pl import ops

FEW = 64  # pairs
INNER = 200  # calls a measurement, of few pairs
# Of ours by entry, relative and absolute for the gradients; of all by norm where scores have 16 bits.
RTOL, ATOL = 2e-5, 1e-9
GAP = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
Results = tuple[Tensor, ...]
Way = Callable[[Tensor, Tensor, Tensor], Results]


def eager(first: Tensor, second: Tensor, target: Tensor) -> Results:
    """Mean loss and its gradients by eager ops."""
    margin = first - second
    loss = (F.softplus(margin) - target * margin).mean()
    return loss, *torch.autograd.grad(loss, (first, second))


def logged(first: Tensor, second: Tensor, target: Tensor) -> Results:
    """What ``eager`` gives, and before it the sums that a trainer logs."""
    margin = first - second
    with torch.no_grad():
        ((margin > 0) == (target > 0.5)).sum(), margin.sum()
    loss = (F.softplus(margin) - target * margin).mean()
    return loss, *torch.autograd.grad(loss, (first, second))


def compiled_ways() -> dict[str, Way]:
    """Return the eager forms as torch.compile fuses them, forward and backward."""

    def loss_of(first: Tensor, second: Tensor, target: Tensor) -> Tensor:
        margin = first - second
        return (F.softplus(margin) - target * margin).mean()

    def all_of(first: Tensor, second: Tensor, target: Tensor) -> Results:
        margin = first - second
        right = ((margin > 0) == (target > 0.5)).sum()
        return (F.softplus(margin) - target * margin).mean(), right, margin.detach().sum()

    # one for each size, as eager has: a size that may vary would cost speed
    fused, fused_all = torch.compile(loss_of, dynamic=False), torch.compile(all_of, dynamic=False)

    def compiled(first: Tensor, second: Tensor, target: Tensor) -> Results:
        loss = fused(first, second, target)
        return loss, *torch.autograd.grad(loss, (first, second))

    def compiled_logged(first: Tensor, second: Tensor, target: Tensor) -> Results:
        loss = fused_all(first, second, target)[0]
        return loss, *torch.autograd.grad(loss, (first, second))

    return {"compiled": compiled, "compiled logged": compiled_logged}


def sums(first: Tensor, second: Tensor, target: Tensor) -> Results:
    """Mean loss and its gradients by the fused op."""
    loss = ops.pairwise_ce_sums(first, second, target).loss / len(first)
    return loss, *torch.autograd.grad(loss, (first, second))


def mean(first: Tensor, second: Tensor, target: Tensor) -> Results:
    """Mean loss and its gradients by the fused op, nothing else asked for."""
    loss = ops.pairwise_ce(first, second, target, reduction="mean")
    return loss, *torch.autograd.grad(loss, (first, second))


def losses(first: Tensor, second: Tensor, target: Tensor) -> Results:
    """Mean of the fused op's losses, one a pair, and its gradients."""
    loss = ops.pairwise_ce(first, second, target).mean()
    return loss, *torch.autograd.grad(loss, (first, second))


OURS: dict[str, Way] = {"mean": mean, "sums": sums, "losses": losses}


def main(words: Sequence[str] | None = None) -> int:
    """Check, time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--pairs", type=int, default=1 << 20, help="of the large batch")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="(default: on a GPU)"
    )
    add_device_options(parser, default="float32, the type of losses")
    given = parser.parse_args(words)
    place = place_of(given, on_gpu=torch.float32)
    keep_memory()
    peers: dict[str, Way] = {"eager": eager, "logged": logged}
    left_out: dict[str, str] = {}
    if place.pick(False, True, given.compile):
        inputs = draw(FEW, place)
        found, left_out = fitting(compiled_ways(), lambda name, way: check(name, way, inputs))
        peers |= found
    seconds = measure({**peers, **OURS}, place, given.pairs, given.repeats)
    report("pairwise_ce", seconds, ratios_of(seconds, peers, given.pairs), place, left_out=left_out)
    return 0


def draw(count: int, place: Place) -> tuple[Tensor, Tensor, Tensor]:
    """Draw scores, which require gradients, and labels, which are float32 whatever scores are."""
    first, second = (3 * torch.randn(2, count, device=place.device)).to(place.dtype).unbind()
    target = torch.rand(count, device=place.device)
    return first.clone().requires_grad_(), second.clone().requires_grad_(), target


def check(name: str, way: Way, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    """Compare loss and gradients with those of the eager form in float64.

    Raises:
        AssertionError: They differ.
    """
    want = eager(*(x.detach().double().requires_grad_(n < 2) for n, x in enumerate(inputs)))
    pairs = zip(way(*inputs), want, strict=True)
    for found, wanted in ((x.detach(), y.detach()) for x, y in pairs):
        if inputs[0].dtype == torch.float32:
            torch.testing.assert_close(found.double(), wanted, rtol=RTOL, atol=ATOL, msg=name)
        check_gap(name, found, wanted, GAP[inputs[0].dtype])


def measure(ways: dict[str, Way], place: Place, many: int, repeats: int) -> dict[str, float]:
    """Time all ways with few and with many pairs, after checking ours.

    Raises:
        AssertionError: Results differ.
    """
    seconds: dict[str, float] = {}
    for count, inner in ((FEW, INNER), (many, 1)):
        inputs = draw(count, place)
        for name, way in OURS.items():
            check(name, way, inputs)
        calls = {f"{n} {count}": (lambda w=w, x=inputs: w(*x)) for n, w in ways.items()}
        seconds |= timings(calls, repeats, inner, place=place)
        if place.is_cuda:
            own = timings(calls, repeats, min(inner, 10), place=place, queued=True)
            seconds |= {f"{name}, GPU's own": value for name, value in own.items()}
    return seconds


def ratios_of(seconds: Mapping[str, float], peers: Iterable[str], many: int) -> dict[str, float]:
    """Compare each of ours with the peers that do the same work."""
    large = "2^20" if many == 1 << 20 else f"{many:,}"
    ratios: dict[str, float] = {}
    ends = [end for end in ("", ", GPU's own") if f"eager {many}{end}" in seconds]
    for peer in peers:
        said = {"logged": "eager with accuracy and margin"}.get(peer, peer)
        for way in ("sums",) if "logged" in peer else OURS:
            for end in ends:
                quick = seconds[f"{peer} {many}{end}"] / seconds[f"{way} {many}{end}"]
                ratios[f"{way}: speedup over {said}, {large} pairs{end}"] = quick
                few = seconds[f"{way} {FEW}{end}"] / seconds[f"{peer} {FEW}{end}"]
                ratios[f"{way}: time over {said}, {FEW} pairs{end}"] = few
    return ratios


if __name__ == "__main__":
    sys.exit(main())
