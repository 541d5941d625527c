"""Log-probability and entropy from hidden states against the plain way over all logits.

    python benchmarks/linear_logprob.py --vocabulary 49152

Time and peak memory, forward and backward, with a frozen and a trained output embedding.
"""

from __future__ import annotations

import argparse

import torch
from timing import medians, peak_growth, report
from torch import Tensor

from rlaif_pl import ops

TEMPERATURE = 0.9
Result = tuple[Tensor, ...]


def plain(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Result:
    """All logits, log-softmax, the taken entry; the entropy without a gradient."""
    logp = torch.log_softmax((hidden @ weight.T) / TEMPERATURE, -1)
    logprob = logp.gather(1, tokens[:, None])[:, 0]
    with torch.no_grad():
        entropy = -(logp.exp() * logp).sum(1)
    return finish(logprob, entropy, hidden, weight)


def blocked(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Result:
    """The op of this package."""
    return finish(*ops.linear_logprob(hidden, weight, tokens, TEMPERATURE), hidden, weight)


def finish(logprob: Tensor, entropy: Tensor, hidden: Tensor, weight: Tensor) -> Result:
    """Add the gradients of the mean log-probability."""
    leaves = [x for x in (hidden, weight) if x.requires_grad]
    grads = torch.autograd.grad(logprob.mean(), leaves)
    return logprob.detach(), entropy.detach(), *grads


def main() -> None:
    """Check, time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, default=49_152)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--repeats", type=int, default=5)
    sizes = parser.parse_args()
    hidden = torch.randn(sizes.rows, sizes.width).requires_grad_()
    weight = torch.randn(sizes.vocabulary, sizes.width) / sizes.width**0.5
    tokens = torch.randint(0, sizes.vocabulary, (sizes.rows,))
    seconds, ratios = {}, {}
    for kind in ("frozen", "trained"):
        weight.requires_grad_(kind == "trained")
        small = hidden[:64].detach().requires_grad_()
        pair = [way(small, weight, tokens[:64]) for way in (plain, blocked)]
        torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)
        del pair
        ways = {
            f"{way.__name__}, {kind}": (lambda w=way: w(hidden, weight, tokens))
            for way in (blocked, plain)
        }
        memory = {name: peak_growth(way) for name, way in ways.items()}
        seconds |= medians(ways, sizes.repeats)
        names = f"blocked, {kind}", f"plain, {kind}"
        ratios[f"{kind}: time over plain"] = seconds[names[0]] / seconds[names[1]]
        # The gradient of the embedding is an output, the same in both.
        output = weight.numel() * 4 if kind == "trained" else 0
        ours, theirs = (memory[name] - output for name in names)
        ratios[f"{kind}: memory of plain over ours"] = theirs / ours
    report(f"linear_logprob V={sizes.vocabulary}", seconds, ratios)


if __name__ == "__main__":
    main()
