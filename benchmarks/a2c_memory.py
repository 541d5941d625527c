"""Memory of an A2C run of SmolLM2-135M with LoRA: peak over imports, against one copy of the weights.

The run is a real one: model loaded, Lightning trainer with the CompactMemory callback, rollout,
reward, update, AdamW. What the update
must keep for its backward pass is computed from the shapes of the batch (the formula is explained in
docs/performance.md) and taken off; the rest is to stay within 1.6 copies of the weights.

    OMP_NUM_THREADS=2 python benchmarks/a2c_memory.py          (about 2 minutes on two cores)
    python benchmarks/a2c_memory.py --device cuda

On a GPU torch's allocator says what is in use, bfloat16 is the type of frozen weights and of autocast
where nothing else is said, and steps are larger. The formula then takes 2 bytes for what autocast keeps
in bfloat16, though some of it (the inputs of norms) is float32: the copies are no goal there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from device import Place, add_device_options, place_of
from lightning.pytorch import Callback, Trainer
from rl_step import endless_model
from rl_step_task import VowelReward
from timing import forget_peak, peak_resident, resident
from tldr import batches_of, load_posts
from torch.utils.data import DataLoader

from rlaif_pl.engine.response_batch import ResponseBatch
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.models import ActorCritic, BackboneOptions, Lora, RewardModel
from rlaif_pl.rl.objective import Advantages
from rlaif_pl.rl.rollout import Rollout
from rlaif_pl.training import A2CModule
from rlaif_pl.training.callbacks import CompactMemory

RANK = 16
TARGET = 1.6  # copies of the weights


class Recorder(Callback):
    """Computes what each update keeps, and notes the memory that the loaded models take.

    Args:
        place: Where the run is.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.kept: list[int] = []
        self.loaded, self.load_peak = 0, 0  # on a GPU, where models come by the trainer

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:  # noqa: ARG002
        """Look at every rollout on its way to the update."""
        update = pl_module.update_loss

        def watched(rollout: Rollout, is_counted: torch.Tensor) -> torch.Tensor:
            size = self.place.dtype.itemsize
            self.kept.append(kept_bytes(pl_module.actor, rollout.batch, size))
            loss: torch.Tensor = update(rollout, is_counted)
            return loss

        pl_module.update_loss = watched

    def on_train_start(self, *_: Any) -> None:
        """Note the memory of a GPU once all is on it."""
        if self.place.is_cuda:
            self.loaded = torch.cuda.memory_allocated()
            self.load_peak = torch.cuda.max_memory_allocated()


def kept_bytes(actor: ActorCritic, batch: ResponseBatch, size: int) -> int:
    """Bytes that policy and value network keep for the backward pass, with LoRA on every layer.

    A token of a Llama-type layer keeps the inputs of two norms, the inputs of q/k/v, o (attention's
    output) and gate/up, queries (6 D), a key and a value of each key head, a log-sum-exp a head, gate,
    its activation, up and their product (4 F), and 7 r in the adapters. A prompt's token keeps no input
    and inside of the last MLP (D + 4 F); what the last layer, its norm and the output embedding take
    out at the responses' places comes to 8 D each. Each number takes ``size`` bytes.
    """
    config = actor.reference.config.get_text_config()
    width, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    keys = width // heads * config.num_key_value_heads
    prompts, responses = sum(batch.prefix_lengths), int(batch.lengths.sum())
    token = 6 * width + 2 * keys + heads + 4 * inner + 7 * RANK
    network = actor.policy.top.num_layers * (prompts + responses) * token
    network += 8 * width * responses - (width + 4 * inner) * prompts
    return size * (2 if actor.critic is not None else 1) * network


def build(given: argparse.Namespace, model: Path, place: Place) -> A2CModule:
    """Load the run's module."""
    options = BackboneOptions(str(model), trunk_layers=given.trunk_layers, dtype=place.dtype_name)
    actor = ActorCritic(options, lora=Lora(RANK), value_network=given.value_network)
    reward = VowelReward() if given.reward == "text" else RewardModel(options, lora=Lora(1))
    return A2CModule(
        actor,
        reward,
        sampling=SamplingParams(given.num_generations, given.new_tokens, temperature=0.9),
        advantages=Advantages(baseline="rloo" if given.value_network == "none" else None),
        optimizer=partial(torch.optim.AdamW, lr=1e-5),
    )


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print a table and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, help="prompts a step: 4 on a CPU, 32 on a GPU")
    parser.add_argument("--num_generations", type=int, default=4)
    parser.add_argument("--new_tokens", type=int, default=32)
    parser.add_argument("--words", type=int, default=60, help="posts are cut after so many words")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--trunk_layers", type=int, default=0)
    parser.add_argument("--value_network", default="adapter")
    parser.add_argument("--reward", choices=("text", "model"), default="text")
    parser.add_argument("--plain", action="store_true", help="without the CompactMemory callback")
    parser.add_argument("--folder", type=Path, default=Path("build/a2c_memory"))
    add_device_options(parser, default="float32 on a CPU, bfloat16 on a GPU")
    given = parser.parse_args(words)
    place = place_of(given)
    given.prompts = place.pick(4, 32, given.prompts)
    model = given.folder / "model"
    if not model.is_dir():
        given.folder.mkdir(parents=True, exist_ok=True)
        endless_model(model)
    posts = load_posts(given.prompts * given.steps, given.words)
    forget_peak()
    imports = resident()
    module = build(given, model, place)
    loaded, load_peak = resident() - imports, peak_resident() - imports
    recorder = Recorder(place)
    fit(module, posts, given, place, recorder)
    if place.is_cuda:
        loaded, load_peak = recorder.loaded, recorder.load_peak
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = peak_resident() - imports
    show(module, recorder, loaded, load_peak, peak, place)
    return 0


def fit(
    module: A2CModule,
    posts: Sequence[str],
    given: argparse.Namespace,
    place: Place,
    recorder: Recorder,
) -> None:
    """Train for some steps; what CompactMemory does is for memory of the CPU."""
    is_compact = not (given.plain or place.is_cuda)
    trainer = place.trainer(recorder, *[CompactMemory()] * is_compact, max_epochs=1)
    batches: Any = batches_of(posts, given.prompts)
    trainer.fit(module, DataLoader(batches, batch_size=None))


def show(
    module: A2CModule, recorder: Recorder, loaded: int, load_peak: int, peak: int, place: Place
) -> None:
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
    goal = "" if place.is_cuda else f"    (to be at most {TARGET})"
    print(f"{'peak less what is kept, in copies':40s}{copies:10.2f}{goal}")
    ratios = {"copies": round(copies, 3), "load_peak": round(load_peak / weights, 3)}
    result = {"name": "a2c_memory", "ratios": ratios, "equal": True, **place.facts()}
    print(json.dumps({**result, "peak_mb": round(peak / 1e6), "kept_mb": round(kept / 1e6)}))


if __name__ == "__main__":
    sys.exit(main())
