"""Log-probability and entropy from hidden states against the plain way over all logits.

    python benchmarks/linear_logprob.py --vocabulary 49152

Time and peak memory, forward and backward, with a frozen and a trained output embedding. Peers join
where they are installed: TRL's selective_log_softmax over all logits and its chunked function, and
Liger's chunked selection of log-probabilities (both in PyTorch where there is no Triton). Neither
of the two last skips work for a frozen embedding, and Liger's gives no entropy.

    python benchmarks/linear_logprob.py --device cuda --vocabulary 151936

measures on a GPU, in bfloat16 with 8,192 rows of width 2,048 where nothing else is said; the plain
way under torch.compile joins (on a CPU: ``--compile``). ``--block_logits`` tries another number of
logits at a time. Shares are of the rate of a large matrix product in the same type, with 4 (frozen)
or 6 (trained) operations a row, column and channel: what must be computed at least.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import sys
from collections.abc import Callable, Sequence

import torch
from device import Place, add_device_options, place_of
from timing import check_gap, fitting, gemm_rate, peak_growth, report, timings
from torch import Tensor

from rlaif_pl import ops
from rlaif_pl.ops import _products

TEMPERATURE = 0.9
# Of ours and of peers, which may round logits to 16 bits; by norm, against the plain way in float64.
GAP = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
PEER_GAP = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
Result = tuple[Tensor | None, ...]
Way = Callable[[Tensor, Tensor, Tensor], Result]


def plain(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Result:
    """All logits, log-softmax, the taken entry; the entropy without a gradient."""
    return finish(*over_all_logits(hidden, weight, tokens), hidden, weight)


def over_all_logits(hidden: Tensor, weight: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy, which has no gradient, from all logits."""
    logp = torch.log_softmax((hidden @ weight.T) / TEMPERATURE, -1)
    logprob = logp.gather(1, tokens[:, None])[:, 0]
    with torch.no_grad():
        entropy = -(logp.exp() * logp).sum(1)
    return logprob, entropy


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


def peers_here(compiles: bool) -> dict[str, Way]:
    """Return the peers that are installed, the compiled plain way among them if asked for."""
    peers: dict[str, Way] = {}
    if compiles:
        fused = torch.compile(over_all_logits, dynamic=False)
        peers["compiled plain"] = lambda *x: finish(*fused(*x), *x[:2])
    if importlib.util.find_spec("trl") is not None:
        peers |= {"TRL selective": trl_selective, "TRL chunked": trl_chunked}
    if importlib.util.find_spec("liger_kernel") is not None:
        peers["Liger chunked"] = liger_chunked
    return peers


def finish(logprob: Tensor, entropy: Tensor | None, hidden: Tensor, weight: Tensor) -> Result:
    """Add the gradients of the mean log-probability."""
    leaves = [x for x in (hidden, weight) if x.requires_grad]
    grads = torch.autograd.grad(logprob.mean(), leaves)
    return logprob.detach(), entropy if entropy is None else entropy.detach(), *grads


def main(words: Sequence[str] | None = None) -> int:
    """Check, time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, default=49_152)
    parser.add_argument("--rows", type=int, help="1,024 on a CPU, 8,192 on a GPU")
    parser.add_argument("--width", type=int, help="576 on a CPU, 2,048 on a GPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--block_logits", type=int, help="logits of ours at a time")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="(default: on a GPU)"
    )
    add_device_options(parser, default="float32 on a CPU, bfloat16 on a GPU")
    sizes = parser.parse_args(words)
    place = place_of(sizes)
    if sizes.block_logits is not None:
        columns = place.pick(_products.CPU_BLOCKS.columns, _products.GPU_COLUMNS, None)
        blocks = _products.BlockSizes(sizes.block_logits, columns)
        _products.block_sizes = lambda weight: blocks  # noqa: ARG005 - as it is called
    rows, width = place.pick(1024, 8192, sizes.rows), place.pick(576, 2048, sizes.width)
    compiles = place.pick(False, True, sizes.compile)
    seconds, ratios, shares, megabytes = {}, {}, {}, {}
    left_out: dict[str, str] = {}
    peak = gemm_rate(place)
    for kind in ("frozen", "trained"):
        inputs = draw(place, rows, width, sizes.vocabulary, kind)
        check("blocked", blocked, inputs, place)
        ways: dict[str, Way] = {"plain": plain, **peers_here(compiles)}
        peers, without = fitting(ways, functools.partial(check, inputs=inputs, place=place))
        left_out |= {f"{name}, {kind}": why for name, why in without.items()}
        found, memory = measure({"blocked": blocked, **peers}, inputs, place, sizes.repeats)
        ours = found["blocked"]
        for name in peers:
            ratios[f"time over {name}, {kind}"] = ours / found[name]
            over = memory[name] / max(memory["blocked"], 1)
            ratios[f"memory of {name}, {kind}, over ours"] = over
        work = (4 if kind == "frozen" else 6) * rows * width * sizes.vocabulary
        for name, value in found.items():
            seconds[f"{name}, {kind}"] = value
            shares[f"{name}, {kind}"] = round(work / value / peak, 3)
            megabytes[f"{name}, {kind}"] = round(memory[name] / 1e6)
    print(*(f"{name}: {size} MB" for name, size in megabytes.items()), sep="\n")
    more = {"share_of_gemm_peak": shares, "peak_mb": megabytes, "left_out": left_out}
    sized = {"rows": rows, "width": width, "gemm_tflops": round(peak / 1e12, 2)}
    report(f"linear_logprob V={sizes.vocabulary}", seconds, ratios, place, **sized, **more)
    return 0


def draw(
    place: Place, rows: int, width: int, vocabulary: int, kind: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw hidden states, an output embedding of a kind, frozen or trained, and tokens."""
    device = place.device
    hidden = torch.randn(rows, width, device=device).to(place.dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, device=device) / width**0.5
    tokens = torch.randint(0, vocabulary, (rows,), device=device)
    return hidden, weight.to(place.dtype).requires_grad_(kind == "trained"), tokens


def check(name: str, way: Way, inputs: tuple[Tensor, Tensor, Tensor], place: Place) -> None:
    """Compare all results with those of the plain way in float64, on the first rows.

    A GPU has the memory for as many as make several blocks of ours.

    Raises:
        AssertionError: They differ.
    """
    most = place.pick(64, 2112)
    hidden, weight, tokens = inputs[0].detach()[:most], inputs[1].detach(), inputs[2][:most]
    kinds = [True, inputs[1].requires_grad]
    few = [x.requires_grad_(on) for x, on in zip((hidden, weight), kinds, strict=True)]
    states, embedding = (
        x.detach().double().requires_grad_(on) for x, on in zip(few, kinds, strict=True)
    )
    want = plain(states, embedding, tokens)
    most_gap = (GAP if way is blocked else PEER_GAP)[place.dtype]
    for its, wanted in zip(way(few[0], few[1], tokens), want, strict=True):
        if its is None or wanted is None:
            continue
        check_gap(name, its, wanted, most_gap)


def measure(
    ways: dict[str, Way], inputs: tuple[Tensor, Tensor, Tensor], place: Place, repeats: int
) -> tuple[dict[str, float], dict[str, int]]:
    """Seconds and bytes of each way."""
    calls = {name: (lambda w=way: w(*inputs)) for name, way in ways.items()}
    memory = {name: peak_growth(call, place) for name, call in calls.items()}
    # The gradient of the embedding is an output, the same in all.
    weight = inputs[1]
    output = weight.numel() * weight.element_size() if weight.requires_grad else 0
    seconds = timings(calls, repeats, place=place)
    return seconds, {name: size - output for name, size in memory.items()}


if __name__ == "__main__":
    sys.exit(main())
