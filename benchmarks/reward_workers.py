"""The two sides of ``reward_step.py``, each in a process of its own so that its peak memory is its own.

A worker loads a saved reward model, then takes one training step each time it reads a line, and answers
with one line of JSON: seconds, loss and the most memory it has held.

    python benchmarks/reward_workers.py ours|trl JOB.json
"""

from __future__ import annotations

import ctypes
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ANSWER = "@@ "  # begins a line that is for the parent; libraries write to stdout too


@dataclass(frozen=True)
class Job:
    """What both sides do.

    Attributes:
        model: Folder of the reward model that both start from.
        texts: Pairs as ``[prompt, better, worse]``, ``steps * batch`` of them in training order.
        ids: The same pairs as token ids of ``[prompt + better, prompt + worse]``, EOS included.
        batch: Pairs a step.
        learning_rate: Of AdamW, constant, without weight decay and clipping.
    """

    model: str
    texts: list[list[str]]
    ids: list[list[list[int]]]
    batch: int
    learning_rate: float = 1e-6

    @property
    def steps(self) -> int:
        """Training steps."""
        return len(self.texts) // self.batch

    def save(self, file: Path) -> None:
        """Write it for the workers."""
        file.write_text(json.dumps(asdict(self)))


class Turns:
    """Wait for the parent before a step, answer after it."""

    def begin(self) -> None:
        """Wait for a line, then start the clock."""
        sys.stdin.readline()
        self.began, self.worked = time.perf_counter(), time.process_time()

    def end(self, loss: float) -> None:
        """Answer with times, loss and the peak of resident memory in bytes (Linux)."""
        seconds, worked = time.perf_counter() - self.began, time.process_time() - self.worked
        status = Path("/proc/self/status").read_text()
        peak = 1024 * int(status.split("VmHWM:")[1].split()[0])
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # leave the memory to the other side
        answer = {"seconds": seconds, "processor": worked, "loss": loss, "peak": peak}
        print(ANSWER + json.dumps(answer), flush=True)


def ours(job: Job) -> None:
    """Fit a ``RewardModule`` through Lightning, tokenization in the step included."""
    from functools import partial

    import torch
    from lightning.pytorch import Callback, Trainer

    from rlaif_pl.data.loader import BatchLoader, BatchOrder
    from rlaif_pl.models import BackboneOptions, RewardModel
    from rlaif_pl.training import RewardModule
    from rlaif_pl.types import Preference

    turns = Turns()

    class Timed(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            turns.begin()

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            turns.end(float(trainer.callback_metrics["reward/train_loss"]))

    module = RewardModule(
        RewardModel(BackboneOptions(job.model)),
        optimizer=partial(torch.optim.AdamW, lr=job.learning_rate, weight_decay=0.0, fused=True),
        scheduler=partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0),
    )
    rows = [Preference(*text, group=str(n), p_first=1.0) for n, text in enumerate(job.texts)]
    loader = BatchLoader(rows, BatchOrder(len(rows), job.batch, shuffle=False))
    trainer = Trainer(
        accelerator="cpu",
        max_steps=job.steps,
        logger=False,
        callbacks=[Timed()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)


def trl(job: Job) -> None:
    """Fit TRL's RewardTrainer on the same token ids; padding and collating are not in its time."""
    import torch
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl import RewardConfig, RewardTrainer

    turns = Turns()

    class Timed(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turns.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.end(trainer.latest)

    class InOrder(RewardTrainer):
        latest = float("nan")

        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

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
        bf16=False,
        gradient_checkpointing=False,
        max_length=None,
        use_cpu=True,
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


if __name__ == "__main__":
    {"ours": ours, "trl": trl}[sys.argv[1]](Job(**json.loads(Path(sys.argv[2]).read_text())))
