"""One side of ``rl_step.py``: says when it is ready, then takes a step for each line it reads."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from device import DtypeName, make_place
from rl_step_padded import run_padded
from rl_step_task import ALPHA, BETA, RANK, RATE, RESPONSE, TEMPERATURE, VowelReward, vowels
from sides import Line


def run_ours(given: dict[str, Any], line: Line) -> None:
    """A2CModule under a Lightning trainer."""
    from lightning.pytorch import Callback, Trainer
    from tldr import batches_of
    from torch.utils.data import DataLoader

    from rlaif_pl.engine.sampling import SamplingParams
    from rlaif_pl.models import ActorCritic, BackboneOptions, Lora
    from rlaif_pl.rl.objective import Advantages
    from rlaif_pl.training import A2CModule

    class Steps(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            line.begin()

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            line.end(length=float(trainer.callback_metrics["a2c/train_length"]))

    line.imported()
    place = line.place
    alone = given["side"] == "leave_one_out"
    lora = Lora(RANK, ALPHA) if given["train"] == "lora" else None
    # of weights that are not trained
    frozen: DtypeName = place.dtype_name if lora is not None else "float32"
    options = BackboneOptions(given["model"], dtype=frozen)
    actor = ActorCritic(options, lora=lora, value_network="none" if alone else None)
    actor.to(place.device)
    module = A2CModule(
        actor,
        VowelReward(),
        sampling=SamplingParams(given["num_generations"], given["new_tokens"], TEMPERATURE),
        advantages=Advantages(baseline="rloo" if alone else None),
        optimizer=partial(torch.optim.AdamW, lr=RATE, weight_decay=0.0),
    )
    with torch.no_grad(), place.autocast():
        texts = actor.policy.encode(given["posts"][:1], [[RESPONSE]])
        params = SamplingParams(temperature=TEMPERATURE)
        logprobs = actor.policy.logprobs(texts, params=params)[0, :-1]
    line.ready(logprobs.tolist())
    trainer = place.trainer(Steps(), max_epochs=1, gradient_clip_val=1.0)
    batches: Any = batches_of(given["posts"], given["prompts"])
    trainer.fit(module, DataLoader(batches, batch_size=None))


def run_trl(given: dict[str, Any], line: Line) -> None:
    """RLOOTrainer; advantages from leave-one-out scores with the KL in them."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import RLOOConfig, RLOOTrainer

    from rlaif_pl.text import Template

    lengths: list[int] = []

    def reward(
        completions: list[str], completion_ids: list[list[int]], **_: Any
    ) -> list[float | None]:
        lengths[:] = [len(row) for row in completion_ids]
        return [vowels(text) for text in completions]

    class Steps(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            line.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            line.end(length=sum(lengths) / len(lengths))

    line.imported()
    place = line.place
    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    prompts = [Template().render(post) for post in given["posts"]]
    size = given["prompts"] * given["num_generations"]
    config = RLOOConfig(
        output_dir=str(Path(given["model"]).with_name("trl")),
        per_device_train_batch_size=size,
        gradient_accumulation_steps=1,
        num_generations=given["num_generations"],
        max_completion_length=given["new_tokens"],
        max_steps=len(prompts) // given["prompts"],
        temperature=TEMPERATURE,
        beta=BETA,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        shuffle_dataset=False,
        gradient_checkpointing=False,
        bf16=place.dtype == torch.bfloat16,
        use_cpu=not place.is_cuda,
        use_liger_kernel=given["side"] == "trl_liger",
        report_to="none",
        save_strategy="no",
        logging_steps=1000,
        disable_tqdm=True,
    )
    lora = LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", bias="none"
    )
    frozen = place.dtype if given["train"] == "lora" else torch.float32
    trainer = RLOOTrainer(
        AutoModelForCausalLM.from_pretrained(given["model"], dtype=frozen),
        reward,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
        callbacks=[Steps()],
        peft_config=lora if given["train"] == "lora" else None,
    )
    ids = tokenizer(f"{prompts[0]} {RESPONSE}", return_tensors="pt").input_ids
    kept = ids.shape[1] - len(tokenizer(prompts[0]).input_ids)
    model: Any = trainer.model
    ids = ids.to(model.device)
    with torch.no_grad(), place.autocast():
        logprobs, _, _ = trainer._get_per_token_logps_and_entropies(
            model, ids, torch.ones_like(ids), kept
        )
    line.ready(logprobs[0].tolist())
    trainer.train()


if __name__ == "__main__":
    side, file = sys.argv[1:]
    settings = {**json.loads(Path(file).read_text()), "side": side}
    line = Line(make_place(settings["device"], settings["dtype"]))
    if side == "padded":
        run_padded(settings, line)
    else:
        (run_trl if side.startswith("trl") else run_ours)(settings, line)
