"""How the RL step grows with response length, samples a prompt and prompts, beside its floor.

    OMP_NUM_THREADS=2 python benchmarks/rl_growth.py --plot docs/rl_growth.png

A2C of the first layers of SmolLM2-135M on prompts of 350 tokens, float32, with LoRA and a value network
that has adapters of its own (or with ``--train all``). Two parts of a step are timed apart:

- the update: policy and value network forward and backward, losses, AdamW;
- the rollout: writing the samples, the frozen reference's log-probabilities, and a reward that costs
  nothing. No sample ends early, so that all have the same length.

The floor of the update is the operations that it cannot do without (``growth.operations``; 4 a weight
of a frozen output embedding and response token, 6 of a trained one) at the rate of a large matrix
product, measured between the steps. The floor of the rollout is the same for reading the prompts
(without what the last layer need not compute) and for the reference, and for each token written the
larger of two: 2 operations a weight and row and 4 a channel and visible key at that rate, or reading
all weights once, each prompt's keys and values once and each row's own, at the rate at which a
matrix-vector product reads memory. Adapters do not count while writing, since they could be merged.

Less than 10 minutes on two idle cores. ``--sizes 1 --repeats 1`` tries it out.

    python benchmarks/rl_growth.py --device cuda

On a GPU it is bfloat16 (autocast, and frozen weights with LoRA) and 16 times as many prompts where
nothing else is said; rates are of products in that type, and of the better of a matrix-vector product
and a copy.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from device import Place, add_device_options, place_of
from growth import (
    KEYS_VALUES,
    PROMPT,
    Case,
    Point,
    cases,
    channels,
    draw,
    keys_seen,
    operations,
    show,
)
from rl_step_task import VowelReward
from timing import gemm_rate, reading_rate
from tldr import batches_of
from typing_extensions import override

from rlaif_pl.engine.response_batch import ResponseBatch, assemble
from rlaif_pl.engine.runner import DecoderRunner
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.models import ActorCritic, BackboneOptions, Lora
from rlaif_pl.training import A2CModule

RESPONSE, PER_PROMPT, PROMPTS = 40, 4, 4  # where another one varies
SWEEPS = {
    "response tokens": [(n, PER_PROMPT, PROMPTS) for n in (20, 40, 80, 160)],
    "samples a prompt": [(RESPONSE, n, PROMPTS) for n in (2, 4, 8, 16)],
    "prompts a step": [(RESPONSE, PER_PROMPT, n) for n in (1, 2, 4, 8, 16)],
}
PARTS = ("update", "rollout")
WORDS = ("dog", "house", "money", "friend", "work", "school", "phone", "night")  # a token each


class Rates(NamedTuple):
    """Speed of the machine."""

    products: float  # operations a second
    reading: float  # bytes a second
    size: int  # bytes of a number


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print two tables and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=3, help="keep the first layers only")
    parser.add_argument("--train", choices=("lora", "all"), default="lora")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sizes", type=int, help="only the first sizes of each sweep")
    parser.add_argument("--factor", type=int, help="prompts, times 1 on a CPU, 16 on a GPU")
    parser.add_argument("--plot", type=Path, help="write a picture here")
    add_device_options(parser, default="float32 on a CPU, bfloat16 on a GPU")
    given = parser.parse_args(words)
    place = place_of(given)
    module = build(given.layers, given.train, place)
    factor = place.pick(1, 16, given.factor)
    tables = grow(module, place, given.repeats, given.sizes, factor)
    for part, points in tables.items():
        show(points, part, "samples")
    if given.plot is not None:
        draw(tables, "samples", given.plot)
    result: dict[str, Any] = {"name": "rl_growth", "ratios": {}, "equal": True, **place.facts()}
    for part, points in tables.items():
        result[f"{part}_samples_per_s"] = {p.name: round(p.count / p.seconds, 3) for p in points}
        result[f"{part}_share_of_floor"] = {p.name: round(p.share, 3) for p in points}
        middle = statistics.median(p.share for p in points)
        result["ratios"][f"{part}: median share of the floor's speed"] = round(middle, 3)
    print(json.dumps(result))
    return 0


class SilentA2C(A2CModule):
    """Logs nothing: there is no trainer."""

    @override
    def log_dict(self, *_: Any, **__: Any) -> None:
        pass


def build(layers: int, train: str, place: Place) -> A2CModule:
    """Load the module; its policy never ends a text, and nothing is logged."""
    lora = Lora(16, 32) if train == "lora" else None
    frozen = "float32" if lora is None else place.dtype_name
    actor = ActorCritic(BackboneOptions(num_layers=layers, dtype=frozen), lora=lora)
    actor.policy.eos = -1
    actor.policy.stop_token_ids = frozenset({actor.policy.eos})
    module = SilentA2C(actor, VowelReward(), optimizer=partial(torch.optim.AdamW, lr=1e-6))
    return module.to(place.device)


def grow(
    module: A2CModule, place: Place, repeats: int, sizes: int | None, factor: int
) -> dict[str, list[Point]]:
    """Time both parts at every size; one small step before, which is not counted, warms up.

    Args:
        module: What takes the steps.
        place: Where.
        repeats: Steps of a size; on a GPU one more that is not counted chooses kernels and memory.
        sizes: Only the first of each sweep.
        factor: How many times as many prompts a step takes.
    """
    optimizer = module.build_optimizer()
    take(module, optimizer, place, (4, 2, 1))
    tables: dict[str, list[Point]] = {part: [] for part in PARTS}
    for sweep, size, case in cases(SWEEPS, factor, sizes):
        turns: list[tuple[float, ...]] = []
        for turn in range(-1 if place.is_cuda else 0, repeats):
            speed = gemm_rate(place), reading_rate(place)
            seconds = take(module, optimizer, place, case)
            turns += [(*seconds, *speed)] if turn >= 0 else []
        middle = [statistics.median(column) for column in zip(*turns, strict=True)]
        rates = Rates(middle[2], middle[3], place.dtype.itemsize)
        floors = floors_of(module.actor, case, rates)
        for n, part in enumerate(PARTS):
            point = Point(sweep, size, case[1] * case[2], middle[n], floors[n])
            tables[part].append(point)
        sys.stderr.write(f"{point.name}: {middle[0]:.3f} and {middle[1]:.3f} s\n")
    return tables


def take(
    module: A2CModule,
    optimizer: torch.optim.Optimizer,
    place: Place,
    case: Case,
) -> tuple[float, float]:
    """Take one step; returns the seconds of its update and of its rollout.

    Args:
        module: What takes it.
        optimizer: Of the module.
        place: Where.
        case: Response tokens, samples a prompt, prompts.

    Raises:
        ValueError: A prompt or a sample has another length.
    """
    response, num_generations, prompts = case
    module.sampling = SamplingParams(num_generations, response, temperature=0.9)
    texts = prompts_of(module.actor, prompts)
    (batch,) = batches_of(texts, prompts)
    began = time.perf_counter()
    with place.autocast():
        rollout = module.rollout(batch, 0)
        place.synchronize()
        wrote = time.perf_counter()
        loss = module.update_loss(rollout, module.counted(rollout, batch))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    place.synchronize()
    ended = time.perf_counter()
    found = (max(rollout.batch.prefix_lengths) + 1, set(rollout.batch.lengths.tolist()))
    if found != (PROMPT, {response}):
        raise ValueError(
            f"expected prompts and samples of {PROMPT}, {response} tokens, got {found}"
        )
    return ended - wrote, wrote - began


def prompts_of(actor: ActorCritic, count: int) -> list[str]:
    """Make prompts of the same number of tokens, each from a word of its own."""
    policy = actor.policy
    (bare,) = policy.encode_prompts([WORDS[0]])
    room = PROMPT - len(bare) + 1
    return [" ".join([WORDS[n % len(WORDS)]] * room) for n in range(count)]


def floors_of(actor: ActorCritic, case: Case, rates: Rates) -> tuple[float, float]:
    """Seconds that an update and a rollout cannot go below; see the module's docstring."""
    response, num_generations, prompts = case
    rows = [[0] * response] * (num_generations * prompts)
    inputs = assemble([[0] * PROMPT] * prompts, rows, pad=0).inputs
    head = actor.policy.unembedding.weight
    logits = head.numel() * len(rows) * response
    update = operations(actor.policy.top, inputs) + (6 if head.requires_grad else 4) * logits
    if actor.critic is not None:
        update += operations(actor.critic, inputs)
    reference = operations(actor.reference.top, inputs) + 2 * logits
    written = writing_seconds(actor.reference.top, head.numel(), inputs, rates)
    return update / rates.products, reference / rates.products + written


def writing_seconds(stack: DecoderRunner, head: int, inputs: ResponseBatch, rates: Rates) -> float:
    """Seconds that reading the prompts and writing the samples cannot go below.

    Args:
        stack: The model without adapters.
        head: Weights of the output embedding.
        inputs: Tokens that are read, all rows of one length.
        rates: Speed of the machine.
    """
    prompts, prefix = len(inputs.prefixes), max(inputs.prefix_lengths)
    rows, length = len(inputs.continuations), max(inputs.continuation_lengths)
    bare = dataclasses.replace(inputs, continuations=((),) * rows)
    read = operations(stack, bare)
    layers = cast(torch.nn.ModuleList, stack.decoder.layers)
    matrices = [(n, p) for n, p in layers.named_parameters() if p.dim() == 2]
    weights = head + sum(p.numel() for _, p in matrices)
    kept = sum(p.shape[0] for n, p in matrices if n.split(".")[2] in KEYS_VALUES)  # a token
    seconds = read / rates.products
    for step in range(length):
        seen = keys_seen([prefix] * prompts, [step + 1] * rows, is_last=True, ends_only=True)
        work = 2 * weights * rows + 4 * channels(stack) * len(layers) * seen
        moved = rates.size * (weights + kept * (prompts * prefix + rows * (step + 1)))
        seconds += max(work / rates.products, moved / rates.reading)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
