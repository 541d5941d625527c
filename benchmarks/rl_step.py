"""RL steps a second (rollout + reward + update): this package against TRL's RLOOTrainer.

Both sides sample the same number of responses to the same TL;DR posts from SmolLM2-135M, score them
with the same function of the text, and take one AdamW step: float32, no gradient checkpointing, one
process, responses of a fixed length (a token that is never drawn stands for the end of text). Ours is
measured with leave-one-out scores as the advantage, which is what TRL does, and as A2C with a value
network of its own, which is more work. Each side is a process of its own; they take their steps in
turn, so that other work on the machine slows all of them. Before any time counts, both must give the
same log-probabilities.

    pip install --no-deps "trl>=1.16"
    OMP_NUM_THREADS=2 python benchmarks/rl_step.py             (about 8 minutes on two cores)
    python benchmarks/rl_step.py --device cuda

On a GPU all compute in bfloat16 by autocast, frozen weights are bfloat16, and steps are larger, where
nothing else is said. There TRL with Liger's kernels joins where both are installed, and ``padded``,
what one would write with transformers and PEFT alone (on a CPU: where there is no TRL, or by
``--sides``).

Posts are read from $RLAIF_PL_DATA/tldr_comparisons/batch13.json (OpenAI's human comparisons), or from
../shared/data beside the checkout; without them, the posts that come with the package are taken.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from device import Place, add_device_options, place_of, step_peers
from transformers import AutoTokenizer

from rlaif_pl.data.sources import DataSource, load_preferences
from rlaif_pl.models.embedded import embedded_model_folder
from rlaif_pl.text import Template, truncate_words

NEVER = "<empty_output>"  # in SmolLM2's vocabulary, and as good as never drawn
# Nats a token, the largest and the mean; in bfloat16 a logit of 20 is rounded by up to 0.06.
TOLERANCE = {"float32": (1e-3, 1e-3), "bfloat16": (0.3, 0.1)}
PEERS, OURS = ("trl", "trl_liger", "padded"), ("leave_one_out", "a2c")
WORKER = Path(__file__).with_name("rl_step_worker.py")


class Worker:
    """One side, in a process of its own that takes a step whenever it is told to.

    Args:
        side: One of ``PEERS`` or ``OURS``.
        settings: File with what all sides share.
        log: Where the process may say what it likes.
        place: Where the steps are taken.
    """

    def __init__(self, side: str, settings: Path, log: Path, place: Place) -> None:
        self.side, self.log = side, log
        threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
        quiet = {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": threads}
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, str(WORKER), side, str(settings)],
                env={**place.child_environment(), **quiet},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
            )

    def hear(self) -> dict[str, Any]:
        """Return the next message.

        Raises:
            RuntimeError: The process ended.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            end = self.log.read_text()[-2000:]
            raise RuntimeError(f"expected a message from {self.side}, it ended; it said:\n{end}")
        message: dict[str, Any] = json.loads(line)
        return message

    def step(self) -> dict[str, Any]:
        """Let it take one step and return what it measured."""
        assert self.process.stdin is not None
        if self.process.poll() is None:
            self.process.stdin.write("step\n")
            self.process.stdin.flush()
        return self.hear()

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print a table and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, help="prompts a step: 2 on a CPU, 16 on a GPU")
    parser.add_argument(
        "--num_generations", type=int, help="samples a prompt, K: 4 on a CPU, 8 on a GPU"
    )
    parser.add_argument(
        "--new_tokens", type=int, help="tokens of every response: 32 on a CPU, 64 on a GPU"
    )
    parser.add_argument("--words", type=int, default=150, help="posts are cut after so many words")
    parser.add_argument(
        "--repeats", type=int, default=3, help="steps that count; one more warms up"
    )
    parser.add_argument("--train", choices=("lora", "all"), default="lora")
    parser.add_argument("--sides", nargs="+", choices=PEERS + OURS, help="(default: what is here)")
    add_device_options(parser, default="float32 on a CPU, bfloat16 on a GPU")
    given = parser.parse_args(words)
    place = place_of(given)
    for name, usual in {
        "prompts": (2, 16),
        "num_generations": (4, 8),
        "new_tokens": (32, 64),
    }.items():
        setattr(given, name, place.pick(*usual, getattr(given, name)))
    given.sides = given.sides or [*step_peers(place), *OURS]
    given.device, given.dtype = place.device.type, place.dtype_name
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = {**vars(given), "model": str(endless_model(folder / "model"))}
        posts = load_posts(given.prompts * (given.repeats + 1), given.words)
        settings["posts"] = posts
        file = folder / "settings.json"
        file.write_text(json.dumps(settings))
        logs = {side: folder / f"{side}.log" for side in given.sides}
        workers = [Worker(side, file, log, place) for side, log in logs.items()]
        try:
            found, left_out = measure(workers, given.repeats, given.new_tokens, place)
        finally:
            for worker in workers:
                worker.stop()
    report(found, given, prompt_tokens(posts), place, left_out)
    return 0


def endless_model(folder: Path) -> Path:
    """Write the embedded model with an end of text that is never drawn; the weights are linked."""
    source = embedded_model_folder()
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(source / "model.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(source)
    pad = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.eos_token, tokenizer.pad_token = NEVER, pad
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        config = json.loads((source / name).read_text())
        config["eos_token_id"] = tokenizer.convert_tokens_to_ids(NEVER)
        (folder / name).write_text(json.dumps(config))
    return folder


def load_posts(count: int, words: int) -> list[str]:
    """Return posts, cut after so many words, in the file's order; again where there are too few."""
    shared = Path(os.environ.get("RLAIF_PL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    file = shared / "tldr_comparisons" / "batch13.json"
    source = DataSource(str(file)) if file.is_file() else "tiny_tldr/pairs"
    posts = dict.fromkeys(row.prompt for row in load_preferences(source).rows)
    found = [truncate_words(post, words) for post in posts][:count]
    return [found[n % len(found)] for n in range(count)]


def prompt_tokens(posts: Sequence[str]) -> float:
    """Mean tokens of a rendered prompt."""
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_folder())
    return statistics.mean(len(tokenizer(Template().render(post)).input_ids) for post in posts)


def measure(
    workers: Sequence[Worker], repeats: int, new_tokens: int, place: Place
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Let the sides take their steps in turn; the first step of each does not count.

    Returns:
        The steps of each side, and why peers that ended are left out.

    Raises:
        RuntimeError: A side of ours ended.
        ValueError: The sides differ in log-probabilities, or a response has another length.
    """
    left_out: dict[str, str] = {}

    def ask(worker: Worker, question: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        if worker.side in left_out:
            return None
        try:
            return question()
        except RuntimeError as error:
            if worker.side in OURS:
                raise
            left_out[worker.side] = str(error)
            sys.stderr.write(f"{worker.side} is left out: {error}\n")
            return None

    ready = {worker.side: ask(worker, worker.hear) for worker in workers}
    compare_logprobs({side: m["logprobs"] for side, m in ready.items() if m}, place)
    found: dict[str, list[dict[str, Any]]] = {worker.side: [] for worker in workers}
    for turn in range(repeats + 1):
        for worker in workers:
            step = ask(worker, worker.step)
            if step is None:
                continue
            if step["length"] != new_tokens:
                raise ValueError(
                    f"expected {new_tokens} tokens a response of {worker.side}, got {step['length']}"
                )
            sys.stderr.write(f"turn {turn}, {worker.side}: {step['seconds']:.3f} s\n")
            if turn > 0:
                found[worker.side].append({**step, "imports": ready[worker.side]["imports"]})
    return {side: steps for side, steps in found.items() if side not in left_out}, left_out


def compare_logprobs(of_sides: Mapping[str, Sequence[float]], place: Place) -> None:
    """Compare what each side says of the same response with what one of ours does.

    Raises:
        ValueError: They differ.
    """
    ours = of_sides[next((side for side in of_sides if side in OURS), [*of_sides][-1])]
    largest, mean = TOLERANCE[place.dtype_name]
    for side, logprobs in of_sides.items():
        gaps = [abs(a - b) for a, b in zip(logprobs, ours, strict=True)]
        if not (max(gaps) < largest and statistics.mean(gaps) < mean):
            raise ValueError(
                f"expected log-probabilities of {side} within {largest}, {mean} on average, got gaps "
                f"of {max(gaps)} and {statistics.mean(gaps)}"
            )


def report(
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    given: argparse.Namespace,
    tokens: float,
    place: Place,
    left_out: Mapping[str, str],
) -> None:
    """Print the table and the JSON line."""
    count = given.prompts * given.num_generations
    print(
        f"{given.prompts} prompts of {tokens:.0f} tokens on average x {given.num_generations} samples "
        f"of {given.new_tokens} tokens, training {given.train}, {place.dtype_name}"
    )
    memory = place.pick("peak RSS, GB", "peak, GB")
    print(f"{'':16s}{'s/step':>10s}{'samples/s':>12s}{memory:>14s}{'over imports':>14s}")
    rates, peaks = {}, {}
    for side, steps in found.items():
        seconds = statistics.median(step["seconds"] for step in steps)
        rates[side], peaks[side] = count / seconds, max(step["peak"] for step in steps)
        over = peaks[side] - steps[0]["imports"]
        print(
            f"{side:16s}{seconds:10.3f}{rates[side]:12.3f}{peaks[side] / 1e9:14.2f}{over / 1e9:14.2f}"
        )
    ratios = {}
    for peer in (side for side in found if side in PEERS):
        over = "" if peer == "trl" else f", over {peer}"
        for side in (side for side in found if side in OURS):
            ratios[f"{side}{over}"] = round(rates[side] / rates[peer], 3)
            ratios[f"{side}_memory{over}"] = round(peaks[side] / peaks[peer], 3)
    result = {"name": "rl_step", "ratios": ratios, "equal": True, **place.facts()}
    result["samples_per_s"] = {side: round(rate, 3) for side, rate in rates.items()}
    result["peak_gb"] = {side: round(peak / 1e9, 2) for side, peak in peaks.items()}
    print(json.dumps({**result, "left_out": left_out}))


if __name__ == "__main__":
    sys.exit(main())
