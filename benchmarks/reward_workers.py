"""The sides of ``reward_step.py``, each in a process of its own so that its peak memory is its own.

A worker loads a saved reward model, then takes one training step each time it reads a line (see
``sides.py``) and says its loss.

    python benchmarks/reward_workers.py ours|trl|trl_liger|padded JOB.json
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from device import make_place
from sides import Line


@dataclass(frozen=True)
class Job:
    """What both sides do.

    Attributes:
        model: Folder of the reward model that both start from.
        texts: Pairs as ``[prompt, better, worse]``, ``steps * batch`` of them in training order.
        ids: The same pairs as token ids of ``[prompt + better, prompt + worse]``, EOS included.
        batch: Pairs a step.
        device: ``cpu`` or ``cuda``.
        dtype: Type that a trainer computes in; weights are float32.
        learning_rate: Of AdamW, constant, without weight decay and clipping.
    """

    model: str
    texts: list[list[str]]
    ids: list[list[list[int]]]
    batch: int
    device: str = "cpu"
    dtype: str = "float32"
    learning_rate: float = 1e-6

    @property
    def steps(self) -> int:
        """Training steps."""
        return len(self.texts) // self.batch


def ours(job: Job, turns: Line) -> None:
    """Fit a ``RewardModule`` through Lightning, tokenization in the step included."""
    from lightning.pytorch import Callback, Trainer

    from rlaif_pl.data.loader import BatchLoader, BatchOrder
    from rlaif_pl.models import BackboneOptions, RewardModel
    from rlaif_pl.training import RewardModule
    from rlaif_pl.types import Preference

    place = turns.place

    class Timed(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            turns.begin()

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            turns.end(loss=float(trainer.callback_metrics["reward/train_loss"]))

    module = RewardModule(
        RewardModel(BackboneOptions(job.model)),
        optimizer=partial(torch.optim.AdamW, lr=job.learning_rate, weight_decay=0.0, fused=True),
        scheduler=partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0),
    )
    rows = [
        Preference(prompt, better, worse, str(n), p_first=1.0)
        for n, (prompt, better, worse) in enumerate(job.texts)
    ]
    loader = BatchLoader(rows, BatchOrder(len(rows), job.batch, shuffle=False))
    place.trainer(Timed(), max_steps=job.steps).fit(module, loader)


def trl(job: Job, turns: Line, liger: bool = False) -> None:
    """Fit TRL's RewardTrainer on the same token ids; padding and collating are not in its time.

    Args:
        job: What to do.
        turns: To the driver.
        liger: Let Liger's kernels stand for the model's norms, rotations and MLPs (on a GPU).
    """
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl import RewardConfig, RewardTrainer

    place = turns.place

    class Timed(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turns.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.end(loss=trainer.latest)

    class InOrder(RewardTrainer):
        latest = float("nan")

        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            rows: Any = self.train_dataset
            return SequentialSampler(rows)

        def compute_loss(self, *args: Any, **options: Any) -> Any:
            loss = super().compute_loss(*args, **options)
            self.latest = float(loss.detach())
            return loss

    config = RewardConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=job.batch,
        max_steps=job.steps,
        learning_rate=job.learning_rate,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        weight_decay=0.0,
        max_grad_norm=0.0,
        bf16=place.dtype == torch.bfloat16,
        gradient_checkpointing=False,
        max_length=None,
        use_cpu=not place.is_cuda,
        use_liger_kernel=liger,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    rows = {"chosen_ids": [a for a, _ in job.ids], "rejected_ids": [b for _, b in job.ids]}
    trainer = InOrder(
        AutoModelForSequenceClassification.from_pretrained(job.model, dtype=torch.float32),
        args=config,
        train_dataset=Dataset.from_dict(rows),
        processing_class=AutoTokenizer.from_pretrained(job.model),
        callbacks=[Timed()],
    )
    trainer.train()


def padded(job: Job, turns: Line) -> None:
    """Train with transformers alone on the same token ids: each text a row, padded to the longest."""
    from transformers import AutoModelForSequenceClassification

    place = turns.place
    model = AutoModelForSequenceClassification.from_pretrained(job.model, dtype=torch.float32)
    model.to(place.device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=job.learning_rate, weight_decay=0.0, fused=True
    )
    for start in range(0, job.steps * job.batch, job.batch):
        rows = [row for pair in job.ids[start : start + job.batch] for row in pair]
        longest, pad = max(map(len, rows)), model.config.pad_token_id
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
        is_real = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        turns.begin()
        batch = {
            "input_ids": ids.to(place.device, non_blocking=True),
            "attention_mask": is_real.to(place.device, non_blocking=True),
        }
        with place.autocast():
            rewards = model(**batch).logits[:, 0].float()
        loss = -torch.nn.functional.logsigmoid(rewards[::2] - rewards[1::2]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        turns.end(loss=float(loss.detach()))


SIDES: dict[str, Callable[[Job, Line], None]] = {
    "ours": ours,
    "trl": trl,
    "trl_liger": partial(trl, liger=True),
    "padded": padded,
}

if __name__ == "__main__":
    told = Job(**json.loads(Path(sys.argv[2]).read_text()))
    SIDES[sys.argv[1]](told, Line(make_place(told.device, told.dtype), gives_back=True))
