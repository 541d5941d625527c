"""Memory of an A2C run of SmolLM2-135M with LoRA: peak over imports, against one copy of the weights.

The run is a real one: model loaded, Lightning trainer with the CompactMemory callback, rollout,
reward, update, AdamW. What the update
must keep for its backward pass is computed from the shapes of the batch (the formula is explained in
docs/performance.md) and taken off; the rest is to stay within 1.6 copies of the weights.

    OMP_NUM_THREADS=2 python benchmarks/a2c_memory.py          (about 2 minutes on two cores)
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from rl_step import endless_model, load_posts
from rl_step_worker import VowelReward
from timing import resident
from torch.utils.data import DataLoader

from rlaif_pl.engine.response_batch import ResponseBatch
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.models import ActorCritic, BackboneOptions, Lora, RewardModel
from rlaif_pl.rl.objective import Advantages
from rlaif_pl.rl.rollout import Rollout
from rlaif_pl.training import A2CModule
from rlaif_pl.training.callbacks import CompactMemory
from rlaif_pl.types import Batch, Prompt

RANK = 16
TARGET = 1.6  # copies of the weights
FLOAT = 4  # bytes


class Recorder(Callback):
    """Computes what each update keeps, and notes the memory after each step."""

    def __init__(self) -> None:
        self.kept: list[int] = []
        self.resident: list[int] = []

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:  # noqa: ARG002
        """Look at every rollout on its way to the update."""
        update = pl_module.update_loss

        def watched(rollout: Rollout, is_counted: torch.Tensor) -> torch.Tensor:
            self.kept.append(kept_bytes(pl_module.actor, rollout.batch))
            loss: torch.Tensor = update(rollout, is_counted)
            return loss

        pl_module.update_loss = watched

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the memory."""
        self.resident.append(resident())


def kept_bytes(actor: ActorCritic, batch: ResponseBatch) -> int:
    """Bytes that policy and value network keep for the backward pass, with LoRA on every layer.

    A token of a Llama-type layer keeps the inputs of two norms, the inputs of q/k/v, o (attention's
    output) and gate/up, queries (6 D), a key and a value of each key head, a log-sum-exp a head, gate,
    its activation, up and their product (4 F), and 7 r in the adapters. A prompt's token keeps no input
    and inside of the last MLP (D + 4 F); what the last layer, its norm and the output embedding take
    out at the responses' places comes to 8 D each.
    """
    config = actor.reference.config.get_text_config()
    width, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    keys = width // heads * config.num_key_value_heads
    prompts, responses = sum(batch.prefix_lengths), int(batch.lengths.sum())
    token = 6 * width + 2 * keys + heads + 4 * inner + 7 * RANK
    network = actor.policy.top.num_layers * (prompts + responses) * token
    network += 8 * width * responses - (width + 4 * inner) * prompts
    return FLOAT * (2 if actor.critic is not None else 1) * network


def peak_resident() -> int:
    """Return the greatest resident memory of this process since ``forget_peak``, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("expected VmHWM in /proc/self/status, found none; this needs Linux")


def forget_peak() -> None:
    """Give freed memory back and start counting anew."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def build(given: argparse.Namespace, model: Path) -> A2CModule:
    """Load the run's module."""
    options = BackboneOptions(str(model), trunk_layers=given.trunk_layers)
    actor = ActorCritic(options, lora=Lora(RANK), value_network=given.value_network)
    reward = VowelReward() if given.reward == "text" else RewardModel(options, lora=Lora(1))
    return A2CModule(
        actor,
        reward,
        sampling=SamplingParams(given.num_generations, given.new_tokens, temperature=0.9),
        advantages=Advantages(baseline="rloo" if given.value_network == "none" else None),
        optimizer=partial(torch.optim.AdamW, lr=1e-5),
    )


def batches_of(posts: Sequence[str], size: int) -> list[Batch[Prompt]]:
    """Cut posts into batches."""
    rows = [Prompt(post, post) for post in posts]
    parts = [rows[n : n + size] for n in range(0, len(rows), size)]
    return [Batch(part, range(len(part)), [False] * len(part)) for part in parts]


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print a table and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=4, help="prompts a step")
    parser.add_argument("--num_generations", type=int, default=4)
    parser.add_argument("--new_tokens", type=int, default=32)
    parser.add_argument("--words", type=int, default=60, help="posts are cut after so many words")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--trunk_layers", type=int, default=0)
    parser.add_argument("--value_network", default="adapter")
    parser.add_argument("--reward", choices=("text", "model"), default="text")
    parser.add_argument("--plain", action="store_true", help="without the CompactMemory callback")
    parser.add_argument("--folder", type=Path, default=Path("build/a2c_memory"))
    given = parser.parse_args(words)
    model = given.folder / "model"
    if not model.is_dir():
        given.folder.mkdir(parents=True, exist_ok=True)
        endless_model(model)
    posts = load_posts(given.prompts * given.steps, given.words)
    forget_peak()
    imports = resident()
    module = build(given, model)
    loaded, load_peak = resident() - imports, peak_resident() - imports
    recorder = Recorder()
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[recorder] if given.plain else [recorder, CompactMemory()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(batches_of(posts, given.prompts), batch_size=None))
    peak = peak_resident() - imports
    show(module, recorder, loaded, load_peak, peak)
    return 0


def show(module: A2CModule, recorder: Recorder, loaded: int, load_peak: int, peak: int) -> None:
    """Print the table and the JSON line."""
    reference = module.actor.reference
    weights = sum(p.numel() * p.element_size() for p in set(reference.parameters()))
    kept = max(recorder.kept)
    copies = (peak - kept) / weights
    for name, value in (
        ("one copy of the weights", weights),
        ("growth by loading", loaded),
        ("peak growth while loading", load_peak),
        ("peak growth of the run", peak),
        ("kept for the backward pass, computed", kept),
    ):
        print(f"{name:40s}{value / 1e6:10.0f} MB")
    print(f"{'peak less what is kept, in copies':40s}{copies:10.2f}    (to be at most {TARGET})")
    ratios = {"copies": round(copies, 3), "load_peak": round(load_peak / weights, 3)}
    print(json.dumps({"name": "a2c_memory", "ratios": ratios, "equal": True}))


if __name__ == "__main__":
    sys.exit(main())
