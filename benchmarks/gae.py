"""Advantages against the usual loop over time, copy bandwidth and torchrl.

    python benchmarks/gae.py

The loop stands for what trainers write (TRL's is inline and cannot be called): one pass backwards
over time on tensors of (B, T) or (T, B). The bandwidth is that of copying as many bytes as the op
must move, outputs in memory that is already mapped, as in a loop of training steps: once call after
call, so that op and copy find their data in the caches, and once after the caches were filled with
other data, as they are after a forward pass; shares are of the best times. torchrl joins where it
is installed. PufferLib's CPU kernel joins with ``--pufferlib``, the path of its
pufferlib/extensions/pufferlib.cpp, which is compiled alone, with -O3: the whole sdist (3.0.0) needs
files from GitHub to build.

    python benchmarks/gae.py --device cuda

measures on a GPU, (4096, 1024) where no size is given. The loops then are thousands of launches, and a
scan that torch.compile fuses joins them. Shares and rates there are of the GPU's own time, all launches
queued ahead; speedups are of a call as it is.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from device import Place, add_device_options, place_of
from timing import check_gap, fitting, keep_memory, report, timings
from torch import Tensor

from rlaif_pl import ops

GAMMA, LAM, BETA = 0.99, 0.95, 0.05
OPS = ("gae", "kl_gae")
# Of ours by entry, and of peers, which may round each step, by norm; against the loop in float64.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
PEER_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
Pair = tuple[Tensor, Tensor]


class Inputs(NamedTuple):
    """A batch, ``(B, T)`` and for the scores ``(B,)``; the rewards are what ``kl_gae`` shapes."""

    policy: Tensor
    ref: Tensor
    values: Tensor
    scores: Tensor
    rewards: Tensor


def loop(rewards: Tensor, values: Tensor) -> Pair:
    """The usual loop on (B, T), without padding or bootstrap."""
    none = rewards.new_zeros(len(rewards))
    steps, carry, parts = rewards.shape[1], none, []
    for t in reversed(range(steps)):
        next_value = values[:, t + 1] if t + 1 < steps else none
        carry = rewards[:, t] + GAMMA * next_value - values[:, t] + GAMMA * LAM * carry
        parts.append(carry)
    advantages = torch.stack(parts[::-1], 1)
    return advantages, advantages + values


def loop_time_first(rewards: Tensor, values: Tensor) -> Pair:
    """The usual loop on (T, B)."""
    advantages, carry = torch.empty_like(rewards), rewards.new_zeros(rewards.shape[1])
    for t in reversed(range(len(rewards))):
        next_value = values[t + 1] if t + 1 < len(rewards) else 0.0
        carry = rewards[t] + GAMMA * next_value - values[t] + GAMMA * LAM * carry
        advantages[t] = carry
    return advantages, advantages + values


def scan(rewards: Tensor, values: Tensor) -> Pair:
    """The recursion as an associative scan over the differences, which torch.compile fuses."""
    from torch._higher_order_ops.associative_scan import associative_scan

    def join(later: Pair, earlier: Pair) -> Pair:
        return later[0] * earlier[0], earlier[1] + earlier[0] * later[1]

    after = torch.cat([values[:, 1:], values.new_zeros(len(values), 1)], 1)
    deltas = rewards + GAMMA * after - values
    decays = torch.full_like(deltas, GAMMA * LAM)
    mode = "pointwise" if deltas.is_cuda else "generic"
    _, advantages = associative_scan(join, (decays, deltas), 1, reverse=True, combine_mode=mode)
    return advantages, advantages + values


def vectorized_torchrl(rewards: Tensor, values: Tensor) -> Pair:
    """Torchrl's convolution, which wants (B, T, 1), next values and ends."""
    from torchrl.objectives.value.functional import vec_generalized_advantage_estimate

    after = torch.cat([values[:, 1:], values.new_zeros(len(values), 1)], 1)
    done = rewards.new_zeros(*rewards.shape, 1, dtype=torch.bool)
    done[:, -1] = True
    columns = (x[..., None] for x in (values, after, rewards))
    found = vec_generalized_advantage_estimate(GAMMA, LAM, *columns, done, done)
    return found[0][..., 0], found[1][..., 0]


def puffer(path: Path, rewards: Tensor, values: Tensor) -> Callable[[], Pair]:
    """PufferLib's loop in C++ on its own layout: rewards a step later, one more step at the end."""
    from torch.utils.cpp_extension import load

    load("pufferlib_peer", [str(path)], extra_cflags=["-O3"], is_python_module=False)
    after = torch.zeros(len(rewards), 1)
    later, longer = torch.cat([after, rewards], 1), torch.cat([values, after], 1)
    dones, importance = torch.zeros_like(later), torch.ones_like(later)
    advantages = torch.zeros_like(later)

    def run() -> Pair:
        torch.ops.pufferlib.compute_puff_advantage(
            longer, later, dones, importance, advantages, GAMMA, LAM, 1.0, 1.0
        )
        return advantages[:, :-1], advantages[:, :-1] + values

    return run


def main(words: Sequence[str] | None = None) -> int:
    """Check, time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--size", type=int, nargs=2, metavar=("B", "T"), help="(1024, 1024)")
    parser.add_argument("--pufferlib", type=Path, help="pufferlib/extensions/pufferlib.cpp")
    add_device_options(parser, default="float32, the type of losses")
    arguments = parser.parse_args(words)
    place = place_of(arguments, on_gpu=torch.float32)
    keep_memory()
    inputs = draw(place, *place.pick((1024, 1024), (4096, 1024), arguments.size))
    want = check_ours(inputs, place)
    peers, left_out = fitting(
        peers_of(inputs, arguments.pufferlib),
        lambda name, peer: check_peer(name, peer(), want, place.dtype),
    )
    seconds, ratios, rates = bandwidths(inputs, place, arguments.repeats)
    slow = timings({"gae": lambda: ours(inputs), **peers}, arguments.repeats, place=place)
    ratios |= {f"speedup over {name}": slow[name] / slow["gae"] for name in peers}
    seconds |= {"gae, a call" if name == "gae" else name: slow[name] for name in slow}
    report("gae", seconds, ratios, place, gb_per_s=rates, left_out=left_out)
    return 0


def draw(place: Place, rows: int, steps: int) -> Inputs:
    """Draw a batch."""
    made = torch.randn(3, rows, steps, device=place.device).to(place.dtype)
    policy, ref, values = made.unbind()
    scores = torch.randn(rows, device=place.device).to(place.dtype)
    rewards = -BETA * (policy - ref)
    rewards[:, -1] += scores
    return Inputs(policy, ref, values, scores, rewards)


def ours(x: Inputs) -> Pair:
    """The op on rewards."""
    return ops.gae(x.rewards, x.values, gamma=GAMMA, gae_lambda=LAM)


def ours_shaped(x: Inputs) -> ops.KLGae:
    """The op on log-probabilities."""
    return ops.kl_gae(
        x.policy, x.ref, x.values, x.scores, kl_coef=BETA, gamma=GAMMA, gae_lambda=LAM
    )


def check_ours(x: Inputs, place: Place) -> Pair:
    """Compare both ops with the loop in float64; returns what that gives.

    Raises:
        AssertionError: They differ.
    """
    want = loop(x.rewards.double(), x.values.double())
    most = TOLERANCE[place.dtype]
    for found, wanted in zip(ours(x), want, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=most, atol=most)
    shaped = -BETA * (x.policy.double() - x.ref.double())  # not rounded on the way
    shaped[:, -1] += x.scores
    fused = ours_shaped(x)
    for found, wanted in zip(
        (fused.advantages, fused.returns), loop(shaped, x.values.double()), strict=True
    ):
        torch.testing.assert_close(found.double(), wanted, rtol=most, atol=most)
    return want


def peers_of(x: Inputs, pufferlib: Path | None) -> dict[str, Callable[[], Pair]]:
    """Return the other ways to compute advantages that are installed."""
    turned = x.rewards.t().contiguous(), x.values.t().contiguous()
    peers: dict[str, Callable[[], Pair]] = {"loop (B, T)": lambda: loop(x.rewards, x.values)}
    peers["loop (T, B)"] = lambda: loop_time_first(*turned)
    if x.rewards.is_cuda:
        compiled = torch.compile(scan)
        peers["torch.compile's scan"] = lambda: compiled(x.rewards, x.values)
    if importlib.util.find_spec("torchrl") is not None:
        peers["torchrl"] = lambda: vectorized_torchrl(x.rewards, x.values)
    if pufferlib is not None and not x.rewards.is_cuda:
        peers["PufferLib"] = puffer(pufferlib, x.rewards, x.values)
    return peers


def check_peer(name: str, found: Pair, want: Pair, dtype: torch.dtype) -> None:
    """Compare a peer's result with what is wanted, by norm: it may round at every step.

    Raises:
        AssertionError: They differ.
    """
    for mine, wanted in zip(found, want, strict=True):
        placed = mine.t() if "(T, B)" in name else mine
        check_gap(name, placed, wanted, PEER_TOLERANCE[dtype])


def bandwidths(
    x: Inputs, place: Place, repeats: int
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Time both ops beside copies of their bytes; returns seconds, shares, and GB/s of all."""
    size = x.rewards.numel()
    # A copy of n numbers moves 2n: 4 arrays for gae (2 in, 2 out), 5 for kl_gae.
    source = torch.randn(5 * size // 2, device=place.device).to(place.dtype)
    sink, half = torch.empty_like(source), 2 * size
    ways = {
        "gae": lambda: ours(x),
        "kl_gae": lambda: ours_shaped(x),
        "copy of gae's bytes": lambda: sink[:half].copy_(source[:half]),
        "copy of kl_gae's bytes": lambda: sink.copy_(source),
    }
    # A GPU has no neighbors to take a share of its bandwidth.
    of: Callable[[list[float]], float] = statistics.median if place.is_cuda else min
    warm = timings(ways, 4 * repeats, inner=20, of=of, place=place, queued=True)
    filler = torch.zeros(50_000_000, device=place.device)  # 200 MB
    cold = timings(ways, repeats, before=lambda: filler.add_(1), of=of, place=place, queued=True)
    ratios = shares(warm, "share of copy bandwidth")
    ratios |= shares(cold, "share of copy bandwidth, caches cold")
    seconds = warm | {f"{name}, caches cold": value for name, value in cold.items()}
    rates = {}
    for name, value in seconds.items():
        arrays = 5 if "kl_gae" in name else 4
        rates[name] = round(arrays * size * source.element_size() / value / 1e9, 2)
    return seconds, ratios, rates


def shares(seconds: dict[str, float], what: str) -> dict[str, float]:
    """How much of the copy's rate each op reaches."""
    return {f"{op}: {what}": seconds[f"copy of {op}'s bytes"] / seconds[op] for op in OPS}


if __name__ == "__main__":
    sys.exit(main())
