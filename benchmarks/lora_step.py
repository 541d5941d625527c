"""A step of LoRA fine-tuning: adapters computed by this package against PEFT's own layers.

Both are one model with the same texts, base weights and adapters, forward and backward, in turn. Losses
must agree within the rounding of the type before any time counts. In bfloat16 the second ratio is what
short runs of keys win by going back through attention in float32.

    OMP_NUM_THREADS=2 python benchmarks/lora_step.py            (about 2 minutes on two cores)
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from unittest import mock

from peft.tuners import lora
from timing import report, timings

from rlaif_pl.data.sources import DataSource, load_demonstrations
from rlaif_pl.engine.attention import leaf
from rlaif_pl.engine.response_batch import ResponseBatch
from rlaif_pl.models import Lora, Policy

ROUNDING = {"float32": 1e-5, "bfloat16": 2e-2}


def main(words: Sequence[str] | None = None) -> int:
    """Measure both types, and print tables and lines of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args(words)
    for dtype in ROUNDING:
        measure(dtype, given.texts, given.rank, given.repeats)
    return 0


def measure(dtype: str, texts: int, rank: int, repeats: int) -> None:
    """Time steps of one type.

    Raises:
        ValueError: The losses differ.
    """
    own = policy_of(dtype, rank)
    with mock.patch("rlaif_pl.models.adapters.LoraLinear", lora.Linear):
        peft = policy_of(dtype, rank)
    rows = load_demonstrations(DataSource("tiny_tldr/train"))[:texts]
    batch = own.encode([row.text for row in rows], [[row.reference or ""] for row in rows], 40)
    one, other = (step(policy, batch) for policy in (own, peft))
    if not abs(one - other) < ROUNDING[dtype]:
        raise ValueError(f"expected equal losses in {dtype}, got {one} and {other}")
    ways: dict[str, Callable[[], object]] = {
        "ours": functools.partial(step, own, batch),
        "ours, attention back in the type of the base": functools.partial(narrow, own, batch),
        "PEFT's layers, the same attention": functools.partial(narrow, peft, batch),
    }
    seconds = timings(ways, repeats)
    first, second, third = seconds.values()
    ratios = {f"{dtype}: over PEFT": third / first, f"{dtype}: by the attention": second / first}
    report(f"lora_step, {len(batch.packed_ids)} tokens, {dtype}", seconds, ratios)


def policy_of(dtype: str, rank: int) -> Policy:
    """Return the embedded model with adapters on all layers."""
    adapters = Lora(r=rank, alpha=rank)
    return Policy.from_pretrained("smollm2-135m", lora=adapters, dtype=dtype, device="cpu")


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
