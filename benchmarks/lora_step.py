"""A step of LoRA fine-tuning: adapters computed by this package against PEFT's own layers.

Both are one model with the same texts, base weights and adapters, forward and backward, in turn. Losses
must agree within the rounding of the type before any time counts. In bfloat16 the second ratio is what
short runs of keys win by going back through attention in float32.

    OMP_NUM_THREADS=2 python benchmarks/lora_step.py            (about 2 minutes on two cores)
    python benchmarks/lora_step.py --device cuda

On a GPU 64 texts in bfloat16 are measured where nothing else is said, peak memory beside the time, and
attention goes back in the type it has.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from unittest import mock

from device import Place, add_device_options, make_place, place_of
from peft.tuners import lora
from timing import peak_growth, report, timings

from rlaif_pl.data.sources import DataSource, load_demonstrations
from rlaif_pl.engine.attention import leaf
from rlaif_pl.engine.response_batch import ResponseBatch
from rlaif_pl.models import Lora, Policy

ROUNDING = {"float32": 1e-5, "bfloat16": 2e-2}
WITH_SAME_ATTENTION = "PEFT's layers, the same attention"


def main(words: Sequence[str] | None = None) -> int:
    """Measure both types, and print tables and lines of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, help="8 on a CPU, 64 on a GPU")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    add_device_options(parser, default="both on a CPU, bfloat16 on a GPU")
    given = parser.parse_args(words)
    place = place_of(given)
    dtypes = place.pick(list(ROUNDING), ["bfloat16"])
    for dtype in dtypes if given.dtype is None else [given.dtype]:
        own = make_place(str(place.device), dtype)
        measure(own, place.pick(8, 64, given.texts), given.rank, given.repeats)
    return 0


def measure(place: Place, texts: int, rank: int, repeats: int) -> None:
    """Time steps of one type.

    Raises:
        ValueError: The losses differ.
    """
    dtype = place.dtype_name
    own = policy_of(place, rank)
    with mock.patch("rlaif_pl.models.lora_linear.LoraLinear", lora.Linear):
        peft = policy_of(place, rank)
    rows = load_demonstrations(DataSource("tiny_tldr/train"))[:texts]
    batch = own.encode([row.text for row in rows], [[row.reference or ""] for row in rows], 40)
    one, other = (step(policy, batch) for policy in (own, peft))
    if not abs(one - other) < ROUNDING[dtype]:
        raise ValueError(f"expected equal losses in {dtype}, got {one} and {other}")
    ways: dict[str, Callable[[], object]] = {"ours": functools.partial(step, own, batch)}
    # How attention goes back is a matter of torch's CPU kernel.
    back, name = (step, "PEFT's layers") if place.is_cuda else (narrow, WITH_SAME_ATTENTION)
    if not place.is_cuda:
        ways["ours, attention back in the type of the base"] = functools.partial(narrow, own, batch)
    ways[name] = functools.partial(back, peft, batch)
    seconds = timings(ways, repeats, place=place)
    first, *narrower, last = seconds.values()
    ratios = {f"{dtype}: over PEFT": last / first}
    ratios |= {f"{dtype}: by the attention": second / first for second in narrower}
    tokens, more = len(batch.packed_ids), {}
    if place.is_cuda:
        peaks = {what: peak_growth(way, place) for what, way in ways.items()}
        ratios[f"{dtype}: memory of PEFT, over ours"] = peaks[name] / peaks["ours"]
        more["peak_mb"] = {what: round(peak / 1e6) for what, peak in peaks.items()}
        more["tokens_per_s"] = {what: round(tokens / value) for what, value in seconds.items()}
    report(f"lora_step, {tokens} tokens, {dtype}", seconds, ratios, place, **more)


def policy_of(place: Place, rank: int) -> Policy:
    """Return the embedded model with adapters on all layers."""
    return Policy.from_pretrained(
        "smollm2-135m",
        lora=Lora(r=rank, alpha=rank),
        dtype=place.dtype_name,
        device=str(place.device),
    )


def step(policy: Policy, batch: ResponseBatch) -> float:
    """Go forward and back, and return the mean negative log-likelihood."""
    loss = -(policy.logprobs(batch) * batch.is_response).sum() / batch.is_response.sum()
    loss.backward()
    policy.zero_grad()
    return loss.item()


def narrow(policy: Policy, batch: ResponseBatch) -> float:
    """Take a step without widening in the backward pass of attention."""
    with mock.patch.object(leaf, "SHORT_KEYS", 0):
        return step(policy, batch)


if __name__ == "__main__":
    sys.exit(main())
