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
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch
from timing import keep_memory, report, timings
from torch import Tensor

from rlaif_pl import ops

GAMMA, LAM, BETA = 0.99, 0.95, 0.05
OPS = ("gae", "kl_gae")
Pair = tuple[Tensor, Tensor]


def loop(rewards: Tensor, values: Tensor) -> Pair:
    """The usual loop on (B, T), without padding or bootstrap."""
    steps, carry, parts = rewards.shape[1], torch.zeros(len(rewards)), []
    for t in reversed(range(steps)):
        next_value = values[:, t + 1] if t + 1 < steps else torch.zeros(len(rewards))
        carry = rewards[:, t] + GAMMA * next_value - values[:, t] + GAMMA * LAM * carry
        parts.append(carry)
    advantages = torch.stack(parts[::-1], 1)
    return advantages, advantages + values


def loop_time_first(rewards: Tensor, values: Tensor) -> Pair:
    """The usual loop on (T, B)."""
    advantages, carry = torch.empty_like(rewards), torch.zeros(rewards.shape[1])
    for t in reversed(range(len(rewards))):
        next_value = values[t + 1] if t + 1 < len(rewards) else 0.0
        carry = rewards[t] + GAMMA * next_value - values[t] + GAMMA * LAM * carry
        advantages[t] = carry
    return advantages, advantages + values


def vectorized_torchrl(rewards: Tensor, values: Tensor) -> Pair:
    """Torchrl's convolution, which wants (B, T, 1), next values and ends."""
    from torchrl.objectives.value.functional import vec_generalized_advantage_estimate

    after = torch.cat([values[:, 1:], torch.zeros(len(values), 1)], 1)
    done = torch.zeros(*rewards.shape, 1, dtype=torch.bool)
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


def main() -> None:
    """Check, time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 1024), metavar=("B", "T"))
    parser.add_argument("--pufferlib", type=Path, help="pufferlib/extensions/pufferlib.cpp")
    arguments = parser.parse_args()
    keep_memory()
    rows, steps = arguments.size
    policy, ref, values = torch.randn(3, rows, steps).unbind()
    scores = torch.randn(rows)
    rewards = -BETA * (policy - ref)
    rewards[:, -1] += scores

    def shaped() -> ops.KLGae:
        return ops.kl_gae(policy, ref, values, scores, kl_coef=BETA, gamma=GAMMA, gae_lambda=LAM)

    def plain() -> Pair:
        return ops.gae(rewards, values, gamma=GAMMA, gae_lambda=LAM)

    turned = rewards.t().contiguous(), values.t().contiguous()
    peers = {"loop (B, T)": lambda: loop(rewards, values)}
    peers["loop (T, B)"] = lambda: loop_time_first(*turned)
    if importlib.util.find_spec("torchrl") is not None:
        peers["torchrl"] = lambda: vectorized_torchrl(rewards, values)
    want = plain()
    if arguments.pufferlib is not None:
        peers["PufferLib"] = puffer(arguments.pufferlib, rewards, values)
    for name, peer in peers.items():
        found = [x.t() if "(T, B)" in name else x for x in peer()]
        torch.testing.assert_close(found, list(want), rtol=1e-3, atol=1e-4)
    fused = shaped()
    torch.testing.assert_close([fused.advantages, fused.returns], list(want), rtol=1e-4, atol=1e-4)
    # A copy of n numbers moves 2n: 4 arrays for gae (2 in, 2 out), 5 for kl_gae.
    source, sink = torch.randn(5 * rows * steps // 2), torch.empty(5 * rows * steps // 2)
    half = 2 * rows * steps
    ways = {
        "gae": plain,
        "kl_gae": shaped,
        "copy of gae's bytes": lambda: sink[:half].copy_(source[:half]),
        "copy of kl_gae's bytes": lambda: sink.copy_(source),
    }
    seconds = timings(ways, 4 * arguments.repeats, inner=20, of=min)
    ratios = shares(seconds, "share of copy bandwidth")
    filler = torch.zeros(50_000_000)  # 200 MB
    cold = timings(ways, arguments.repeats, before=lambda: filler.add_(1), of=min)
    ratios |= shares(cold, "share of copy bandwidth, caches cold")
    seconds |= {f"{name}, caches cold": value for name, value in cold.items()}
    slow = timings({"gae": plain, **peers}, arguments.repeats)
    ratios |= {f"speedup over {name}": slow[name] / slow["gae"] for name in peers}
    report("gae", seconds | {name: slow[name] for name in peers}, ratios)


def shares(seconds: dict[str, float], what: str) -> dict[str, float]:
    """How much of the copy's rate each op reaches."""
    return {f"{op}: {what}": seconds[f"copy of {op}'s bytes"] / seconds[op] for op in OPS}


if __name__ == "__main__":
    main()
