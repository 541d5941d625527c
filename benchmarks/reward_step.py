"""One training step of the reward model: pairs a second and peak memory, against TRL; how it grows.

    python benchmarks/reward_step.py
    python benchmarks/reward_step.py --plot docs/reward_step.png

Both sides start from one saved reward model, train all of its weights in float32 on the same pairs
with the same AdamW and no gradient checkpointing, and must report the same losses. They take turns,
each in a process of its own. Then our step alone over response length, responses a prompt and batch,
beside the time that its matrix products alone would take.

    python benchmarks/reward_step.py --device cuda

On a GPU both compute in bfloat16 by autocast over float32 weights, with 64 pairs a step and 16 times
as many prompts in the second part, where nothing else is said. TRL with Liger's kernels joins where
both are installed, and ``padded``: transformers alone, each text a row (on a CPU: where there is no
TRL, or by ``--sides``). In bfloat16 each side rounds otherwise, and losses may differ by 0.02 before
the first step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from device import Place, add_device_options, place_of, step_peers
from growth import draw, show
from reward_growth import grow
from reward_workers import Job
from sides import Message, answers, running
from tldr import load_pairs, repeated

from rlaif_pl.models import BackboneOptions, Lora, RewardModel
from rlaif_pl.types import Preference

FIRST_LOSS_GAP = {"float32": 1e-4, "bfloat16": 2e-2}  # nothing was trained yet
# Adam's first steps are signs, and rounding turns some of them.
LATER_LOSS_GAP = {"float32": 1e-3, "bfloat16": 5e-2}
PEERS = ("trl", "trl_liger", "padded")
WORKERS = Path(__file__).with_name("reward_workers.py")


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print tables and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, help="pairs a step: 8 on a CPU, 64 on a GPU")
    parser.add_argument("--repeats", type=int, default=3, help="steps counted a side")
    parser.add_argument("--layers", type=int, help="keep the first layers only")
    parser.add_argument("--growth_layers", type=int, default=8, help="layers of the second part")
    parser.add_argument(
        "--growth_factor", type=int, help="prompts there, times 1 on a CPU, 16 on a GPU"
    )
    parser.add_argument("--growth_sizes", type=int, help="only the first sizes of each sweep there")
    parser.add_argument("--sides", nargs="+", choices=PEERS, help="peers (default: what is here)")
    parser.add_argument("--skip", choices=["peer", "growth"], nargs="*", default=[])
    parser.add_argument("--plot", type=Path, help="write the growth as a picture here")
    add_device_options(parser, default="float32 on a CPU, bfloat16 on a GPU")
    given = parser.parse_args(words)
    place = place_of(given)
    result: dict[str, Any] = {"name": "reward_step", "ratios": {}, "equal": True, **place.facts()}
    if "peer" not in given.skip:
        batch = place.pick(8, 64, given.batch)
        sides = given.sides or step_peers(place)
        compare(result, sides, batch, given.repeats, given.layers, place)
    if "growth" not in given.skip:
        factor = place.pick(1, 16, given.growth_factor)
        points = grow(given.growth_layers, place, factor, given.growth_sizes)
        show(points, "", "pairs")
        result["share_of_floor"] = {p.name: round(p.share, 3) for p in points}
        result["median_share_of_floor"] = round(statistics.median(p.share for p in points), 3)
        if given.plot is not None:
            draw({"": points}, "pairs", given.plot)
    print(json.dumps(result))
    return 0


def compare(
    result: dict[str, Any],
    peers: Sequence[str],
    batch: int,
    repeats: int,
    layers: int | None,
    place: Place,
) -> None:
    """Let all sides take steps in turn and add what came out to the result.

    Raises:
        RuntimeError: Our side failed.
        ValueError: The losses differ.
    """
    left_out: dict[str, str] = {}
    steps: dict[str, list[Message]] = {side: [] for side in (*peers, "ours")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = asdict(prepare(folder / "model", batch, 1 + repeats, layers, place))
        with running(list(steps), WORKERS, job, folder, place) as workers:
            for _ in range(1 + repeats):
                taken = answers(workers, lambda worker: worker.step(), ("ours",), left_out)
                steps = {side: [*steps[side], message] for side, message in taken.items()}
    check_losses(steps, place)
    warm = {side: done[1:] for side, done in steps.items()}  # the first one warms up
    rates = {s: batch / statistics.median(n["seconds"] for n in done) for s, done in warm.items()}
    work = {s: statistics.median(n["processor"] for n in done) for s, done in warm.items()}
    peaks = {side: max(step["peak"] for step in done) for side, done in steps.items()}
    for side in steps:
        print(f"{side:9s} {rates[side]:8.3f} pairs/s {peaks[side] / 1e9:8.2f} GB at most")
    ratios = {}
    for peer in (side for side in steps if side != "ours"):
        over = "" if peer == "trl" else f", over {peer}"
        ratios[f"pairs_per_s{over}"] = rates["ours"] / rates[peer]
        ratios[f"processor_time{over}"] = work[peer] / work["ours"]
        ratios[f"peak_memory{over}"] = peaks[peer] / peaks["ours"]
    for what, ratio in ratios.items():
        print(f"{what:36s} {ratio:6.2f} x")
    result["ratios"] = {what: round(ratio, 3) for what, ratio in ratios.items()}
    result["pairs_per_s"] = {side: round(rate, 4) for side, rate in rates.items()}
    result["peak_gb"] = {side: round(peak / 1e9, 2) for side, peak in peaks.items()}
    result["left_out"] = left_out


def check_losses(steps: Mapping[str, Sequence[Message]], place: Place) -> None:
    """Compare the losses of peers with ours.

    Raises:
        ValueError: They differ.
    """
    first, later = (gaps[place.dtype_name] for gaps in (FIRST_LOSS_GAP, LATER_LOSS_GAP))
    for side, done in steps.items():
        gaps = [abs(a["loss"] - b["loss"]) for a, b in zip(done, steps["ours"], strict=True)]
        if not (gaps[0] < first and max(gaps) < later):
            raise ValueError(f"expected losses of {side} equal to ours, got gaps of {gaps} nats")


def prepare(model: Path, batch: int, steps: int, layers: int | None, place: Place) -> Job:
    """Save the reward model that both start from and tokenize the pairs once for TRL."""
    reward = RewardModel(BackboneOptions(num_layers=layers), lora=Lora(1))
    reward.save_pretrained(model)
    pairs = repeated(load_pairs(), batch * steps)
    texts = [[p.prompt, *sides(p)] for p in pairs]
    encoded = reward.encode([t[0] for t in texts], [t[1:] for t in texts])
    ids = []
    for n in range(len(texts)):
        pair = encoded.continuations[2 * n : 2 * n + 2]
        ids.append([[*encoded.prefixes[n], *row] for row in pair])
    return Job(str(model), texts, ids, batch, place.device.type, place.dtype_name)


def sides(pair: Preference) -> tuple[str, str]:
    """Return the better and the worse response."""
    is_first = (pair.p_first or 0.0) > 0.5
    return (pair.first, pair.second) if is_first else (pair.second, pair.first)


if __name__ == "__main__":
    sys.exit(main())
