"""What soaks need: an A2C run on the tiny model, in processes that are killed, and a free port."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

import rlaif_pl.cli.commands.train  # noqa: F401
import rlaif_pl.training  # noqa: F401
import rlaif_pl.training.callbacks  # noqa: F401 - here once, not in every life of a process
from rlaif_pl.cli import main as cli
from rlaif_pl.pipeline.process import last_checkpoint

FORK = multiprocessing.get_context("fork")
PAGE = os.sysconf("SC_PAGE_SIZE")
CALLBACKS = ("RunLoggers", "RunMetadata", "MetricsFile", "TerminateOnNaN")


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class LongRun:
    """An A2C run in a folder.

    Attributes:
        folder: Of the run.
        config: Its config.
        kills: How often it was killed.
        memory: Steps done and resident bytes of the process, sampled once a second; of all lives.
    """

    folder: Path
    config: Path
    kills: int = 0
    memory: list[tuple[int, int]] = field(default_factory=list)

    def finish(self, every: float | None = None, at_steps: tuple[int, ...] = ()) -> float:
        """Run to the end, killed after about so many seconds or at steps; returns seconds."""
        draw, began, left = random.Random(0), time.monotonic(), list(at_steps)
        while True:
            process = FORK.Process(target=fit, args=(self.config, self.folder))
            process.start()
            known, end = self.steps(), float("inf")
            while process.exitcode is None:
                process.join(0.05 if left else 1.0)
                steps = self.steps()
                self.sample(process.pid, steps)
                if every is not None and steps > known:  # from its first new step on
                    known, end = sys.maxsize, time.monotonic() + every * draw.uniform(0.5, 1.5)
                is_due = time.monotonic() > end
                if process.exitcode is None and (is_due or (left and steps >= left[0])):
                    left = [step for step in left if step > steps]
                    os.kill(process.pid, signal.SIGKILL)
                    process.join()
                    self.kills += 1
            if process.exitcode != -signal.SIGKILL:
                assert process.exitcode == 0, (self.folder / "log.txt").read_text()[-3000:]
                return time.monotonic() - began

    def steps(self) -> int:
        """Rows of the history, one a step."""
        path = self.folder / "history.csv"
        return path.read_bytes().count(b"\n") - 1 if path.is_file() else 0

    def sample(self, pid: int | None, steps: int) -> None:
        """Note how much memory the process holds."""
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return
        self.memory.append((steps, pages * PAGE))


def fit(config: Path, folder: Path) -> None:
    """Run ``fit`` as ``run`` does: from the last whole checkpoint, if there is one."""
    os.environ["WANDB_MODE"] = "disabled"
    words = ["fit", "--config", str(config)]
    if saved := last_checkpoint(folder / "checkpoints"):
        words += ["--ckpt_path", str(saved)]
    folder.mkdir(exist_ok=True)
    with (folder / "log.txt").open("a", buffering=1) as log:
        sys.stdout = sys.stderr = log
        sys.exit(cli.main(words))


@pytest.fixture
def long_run(tmp_path, tiny_model_folder, tiny_reward_folder, data_files):
    """Return a maker of A2C runs over the tiny model."""
    backbone = {"trunk_layers": 2}

    def make(name: str, steps: int, save_every: int) -> LongRun:
        callbacks = [{"class_path": f"rlaif_pl.training.callbacks.{each}"} for each in CALLBACKS]
        table = {"every_n_steps": 7, "num_samples": 2}
        saving = {"save_last": True, "save_top_k": 0, "every_n_train_steps": save_every}
        callbacks += [
            {"class_path": "rlaif_pl.training.callbacks.SampleTable", "init_args": table},
            {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": saving},
            {
                "class_path": "rlaif_pl.training.callbacks.ExportModel",
                "init_args": {"folder": "policy"},
            },
        ]
        actor = {
            "backbone": backbone | {"name": str(tiny_model_folder)},
            "lora": {"r": 2, "alpha": 4},
        }
        reward = {"backbone": backbone | {"name": str(tiny_reward_folder)}, "frozen": True}
        config = {
            "seed_everything": 0,
            "trainer": {
                "default_root_dir": str(tmp_path / name),
                "max_steps": steps,
                "max_epochs": -1,
                "accelerator": "cpu",
                "devices": 1,
                "limit_val_batches": 0,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 1,
                "logger": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "callbacks": callbacks,
            },
            "model": {
                "class_path": "rlaif_pl.training.A2CModule",
                "init_args": {
                    "actor": {"class_path": "rlaif_pl.models.ActorCritic", "init_args": actor},
                    "reward": {"class_path": "rlaif_pl.models.RewardModel", "init_args": reward},
                    "sampling": {"n": 2, "max_new_tokens": 4, "temperature": 0.9},
                    "shaping": {"adaptive_kl": {"target": 0.5}},
                    "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-4}},
                },
            },
            "data": {"task": "prompts", "prompts": data_files.prompts, "batch_size": 2},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config))
        return LongRun(tmp_path / name, path)

    return make
