"""Log-probability and entropy from hidden states against the plain way over all logits.

    python benchmarks/linear_logprob.py --vocabulary 49152

Time and peak memory, forward and backward, with a frozen and a trained output embedding. Peers join
where they are installed: TRL's selective_log_softmax over all logits and its chunked function, and
Liger's chunked selection of log-probabilities (both in PyTorch where there is no Triton). Neither
of the two last skips work for a frozen embedding, and Liger's gives no entropy.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable

import torch
from timing import peak_growth, report, timings
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


def trl_selective(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Result:
    """TRL on all logits; its entropy too has no gradient."""
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    logits = (hidden @ weight.T) / TEMPERATURE
    logprob = selective_log_softmax(logits, tokens)
    with torch.no_grad():
        entropy = entropy_from_logits(logits)
    return finish(logprob, entropy, hidden, weight)


def trl_chunked(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Result:
    """TRL's chunked function with the chunk that its trainers use."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer import utils

    logprob, entropy, *_ = ChunkedLogProbFunction.apply(
        hidden,
        weight,
        None,
        tokens,
        TEMPERATURE,
        utils._CHUNKED_LOGPROB_CHUNK_SIZE,
        None,
        1.0,
        ("entropy",),
    )
    return finish(logprob, entropy.detach(), hidden, weight)


def liger_chunked(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Result:
    """Liger's chunk of its GRPO loss, log-probabilities only."""
    from liger_kernel.chunked_loss.fused_linear_ppo import LigerFusedLinearPPOBase

    find = LigerFusedLinearPPOBase.chunk_forward
    logprob = find(hidden[None], weight, tokens[None], temperature=TEMPERATURE)
    logprob = logprob[0] if isinstance(logprob, tuple) else logprob
    return finish(logprob.reshape(-1), None, hidden, weight)


def ways_here() -> dict[str, Callable[..., Result]]:
    """Return the plain way, ours and the peers that are installed."""
    ways = {"blocked": blocked, "plain": plain}
    if importlib.util.find_spec("trl") is not None:
        ways |= {"TRL selective": trl_selective, "TRL chunked": trl_chunked}
    if importlib.util.find_spec("liger_kernel") is not None:
        ways["Liger chunked"] = liger_chunked
    return ways


def finish(logprob: Tensor, entropy: Tensor | None, hidden: Tensor, weight: Tensor) -> Result:
    """Add the gradients of the mean log-probability."""
    leaves = [x for x in (hidden, weight) if x.requires_grad]
    grads = torch.autograd.grad(logprob.mean(), leaves)
    return logprob.detach(), entropy if entropy is None else entropy.detach(), *grads


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
        want = plain(small, weight, tokens[:64])
        for name, way in ways_here().items():
            for mine, its in zip(want, way(small, weight, tokens[:64]), strict=True):
                if its is not None:
                    torch.testing.assert_close(its, mine, rtol=1e-4, atol=1e-5, msg=name)
        del want, mine, its
        ways = {
            f"{name}, {kind}": (lambda w=way: w(hidden, weight, tokens))
            for name, way in ways_here().items()
        }
        memory = {name: peak_growth(way) for name, way in ways.items()}
        seconds |= timings(ways, sizes.repeats)
        ours = f"blocked, {kind}"
        # The gradient of the embedding is an output, the same in both.
        output = weight.numel() * 4 if kind == "trained" else 0
        for name in [name for name in ways if name != ours]:
            ratios[f"time over {name}"] = seconds[ours] / seconds[name]
            ratios[f"memory of {name}, over ours"] = (memory[name] - output) / (
                memory[ours] - output
            )
        print(*(f"{name}: {(memory[name] - output) / 1e6:.0f} MB" for name in ways), sep="\n")
    report(f"linear_logprob V={sizes.vocabulary}", seconds, ratios)


if __name__ == "__main__":
    main()
