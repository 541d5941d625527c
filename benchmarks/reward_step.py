"""One training step of the reward model: pairs a second and peak memory, against TRL; how it grows.

    python benchmarks/reward_step.py
    python benchmarks/reward_step.py --plot docs/reward_step.png

Both sides start from one saved reward model, train all of its weights in float32 on the same pairs
with the same AdamW and no gradient checkpointing, and must report the same losses. They take turns,
each in a process of its own. Then our step alone over response length, responses a prompt and batch,
beside the time that its matrix products alone would take.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from growth import draw, show
from reward_growth import grow
from reward_workers import ANSWER, Job

from rlaif_pl.data.sources import DataSource, load_preferences
from rlaif_pl.models import BackboneOptions, Lora, RewardModel
from rlaif_pl.types import Preference

FIRST_LOSS_GAP = 1e-4  # nothing was trained yet
LATER_LOSS_GAP = 1e-3  # Adam's first steps are signs, and rounding turns some of them


class Worker:
    """One side's process."""

    def __init__(self, side: str, job: Path) -> None:
        script = Path(__file__).with_name("reward_workers.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), side, str(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def step(self) -> dict[str, float]:
        """Let it take a step; returns seconds, loss and peak bytes.

        Raises:
            RuntimeError: It ended instead.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith(ANSWER):
                answer: dict[str, float] = json.loads(line.removeprefix(ANSWER))
                return answer
        raise RuntimeError(f"expected a step, the worker ended ({self.process.wait()}); see above")

    def stop(self) -> None:
        """Let it end by itself, or end it."""
        try:
            self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print tables and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8, help="pairs a step")
    parser.add_argument("--repeats", type=int, default=3, help="steps counted a side")
    parser.add_argument("--layers", type=int, help="keep the first layers only")
    parser.add_argument("--growth_layers", type=int, default=8, help="layers of the second part")
    parser.add_argument("--skip", choices=["peer", "growth"], nargs="*", default=[])
    parser.add_argument("--plot", type=Path, help="write the growth as a picture here")
    given = parser.parse_args(words)
    result: dict[str, Any] = {"name": "reward_step", "ratios": {}, "equal": True}
    if "peer" not in given.skip:
        compare(result, given.batch, given.repeats, given.layers)
    if "growth" not in given.skip:
        points = grow(given.growth_layers)
        show(points, "", "pairs")
        result["share_of_floor"] = {p.name: round(p.share, 3) for p in points}
        result["median_share_of_floor"] = round(statistics.median(p.share for p in points), 3)
        if given.plot is not None:
            draw({"": points}, "pairs", given.plot)
    print(json.dumps(result))
    return 0


def compare(result: dict[str, Any], batch: int, repeats: int, layers: int | None) -> None:
    """Let both sides take steps in turn and add what came out to the result.

    Raises:
        ValueError: The losses differ.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.json"
        prepare(Path(folder) / "model", batch, 1 + repeats, layers).save(file)
        workers = {side: Worker(side, file) for side in ("trl", "ours")}
        steps: dict[str, list[dict[str, float]]] = {side: [] for side in workers}
        try:
            for number in range(1 + repeats):
                for side, worker in workers.items():
                    steps[side].append(worker.step())
                    print(f"step {number}, {side}: {steps[side][-1]}", file=sys.stderr)
        finally:
            for worker in workers.values():
                worker.stop()
    gaps = [abs(a["loss"] - b["loss"]) for a, b in zip(*steps.values(), strict=True)]
    if not (gaps[0] < FIRST_LOSS_GAP and max(gaps) < LATER_LOSS_GAP):
        raise ValueError(f"expected equal losses, got gaps of {gaps} nats")
    taken = {side: done[1:] for side, done in steps.items()}  # the first one warms up
    rates = {s: batch / statistics.median(n["seconds"] for n in done) for s, done in taken.items()}
    work = {s: statistics.median(n["processor"] for n in done) for s, done in taken.items()}
    peaks = {side: max(step["peak"] for step in done) for side, done in steps.items()}
    for side in steps:
        print(f"{side:6s} {rates[side]:8.3f} pairs/s {peaks[side] / 1e9:8.2f} GB at most")
    ratios = {
        "pairs_per_s": rates["ours"] / rates["trl"],
        "processor_time": work["trl"] / work["ours"],
        "peak_memory": peaks["trl"] / peaks["ours"],
    }
    for what, ratio in ratios.items():
        print(f"{what:20s} {ratio:6.2f} x")
    result["ratios"] = {what: round(ratio, 3) for what, ratio in ratios.items()}
    result["pairs_per_s"] = {side: round(rate, 4) for side, rate in rates.items()}
    result["peak_gb"] = {side: round(peak / 1e9, 2) for side, peak in peaks.items()}


def prepare(model: Path, batch: int, steps: int, layers: int | None) -> Job:
    """Save the reward model that both start from and tokenize the pairs once for TRL."""
    reward = RewardModel(BackboneOptions(num_layers=layers), lora=Lora(1))
    reward.save_pretrained(model)
    pairs = load_pairs(batch * steps)
    texts = [[p.prompt, *sides(p)] for p in pairs]
    encoded = reward.encode([t[0] for t in texts], [t[1:] for t in texts])
    ids = []
    for n in range(len(texts)):
        pair = encoded.continuations[2 * n : 2 * n + 2]
        ids.append([[*encoded.prefixes[n], *row] for row in pair])
    return Job(str(model), texts, ids, batch)


def sides(pair: Preference) -> tuple[str, str]:
    """Return the better and the worse response."""
    is_first = (pair.p_first or 0.0) > 0.5
    return (pair.first, pair.second) if is_first else (pair.second, pair.first)


def load_pairs(count: int) -> list[Preference]:
    """Return the first TL;DR pairs, one a post, from the start again where there are too few."""
    folder = Path(os.environ.get("RLAIF_PL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    file = folder / "tldr_comparisons" / "batch13.json"
    source = DataSource(str(file)) if file.is_file() else "tiny_tldr/pairs"
    rows: dict[str, Preference] = {}
    for row in load_preferences(source).rows:
        rows.setdefault(row.group, row)
    found = list(rows.values())
    return [found[n % len(found)] for n in range(count)]


if __name__ == "__main__":
    sys.exit(main())
