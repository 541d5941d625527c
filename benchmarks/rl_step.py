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

Posts: see ``tldr.py``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from device import Place, add_device_options, place_of, step_peers
from sides import Worker, answers, running
from tldr import load_posts
from transformers import AutoTokenizer

from rlaif_pl.models.embedded import embedded_model_folder
from rlaif_pl.text import Template

NEVER = "<empty_output>"  # in SmolLM2's vocabulary, and as good as never drawn
# Nats a token, the largest and the mean; in bfloat16 a logit of 20 is rounded by up to 0.06.
TOLERANCE = {"float32": (1e-3, 1e-3), "bfloat16": (0.3, 0.1)}
PEERS, OURS = ("trl", "trl_liger", "padded"), ("leave_one_out", "a2c")
WORKER = Path(__file__).with_name("rl_step_worker.py")


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
    usual = {"prompts": (2, 16), "num_generations": (4, 8), "new_tokens": (32, 64)}
    for name, sizes in usual.items():
        setattr(given, name, place.pick(*sizes, getattr(given, name)))
    given.sides = given.sides or [*step_peers(place), *OURS]
    given.device, given.dtype = place.device.type, place.dtype_name
    posts = load_posts(given.prompts * (given.repeats + 1), given.words)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = {**vars(given), "model": str(endless_model(folder / "model")), "posts": posts}
        with running(given.sides, WORKER, job, folder, place) as workers:
            found, left_out = measure(workers, given.repeats, given.new_tokens, place)
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
    ready = answers(workers, lambda worker: worker.hear(), OURS, left_out)
    compare_logprobs({side: message["logprobs"] for side, message in ready.items()}, place)
    found: dict[str, list[dict[str, Any]]] = {worker.side: [] for worker in workers}
    for turn in range(repeats + 1):
        steps = answers(workers, lambda worker: worker.step(), OURS, left_out)
        for side, step in steps.items():
            if step["length"] != new_tokens:
                raise ValueError(
                    f"expected {new_tokens} tokens a response of {side}, got {step['length']}"
                )
            if turn > 0:
                found[side].append({**step, "imports": ready[side]["imports"]})
    return {side: done for side, done in found.items() if side not in left_out}, left_out


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
